"""TaskNorm against a brute-force NumPy program: its formula, the whole inner loop, and both orders' gradients."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from mamlpp_jax.algorithms.evaluation import task_logits
from mamlpp_jax.algorithms.inner_optimizers import sgd
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.meta_loss import meta_loss
from mamlpp_jax.algorithms.outer_loop import init_state
from mamlpp_jax.models import Conv4, init_model, make_forward
from mamlpp_jax.models.layers import Conv, PerStepBatchNorm
from mamlpp_jax.types import Batch, Episode, StepPlan

WAY, STEPS, SIZE, RATE = 2, 2, 4, 0.4
LAYERS = ("0", "1")


class TwoBlocks(nn.Module):
    """A normalisation that pools and one that does not."""

    @nn.compact
    def __call__(self, x):
        for name in LAYERS:
            x, bias = Conv(2, name=f"conv{name}")(x)
            x = PerStepBatchNorm(max_pool=name == "0", name=f"norm{name}")(x, bias)
            x = nn.leaky_relu(x, 0.01)
        return nn.Dense(WAY, dtype=x.dtype, name="linear")(x.reshape(len(x), -1))


def conv_numpy(x, kernel, bias):
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nabcij,ijcf->nabf", windows, kernel) + bias


def task_norm_numpy(x, row, given):
    """Image by image and filter by filter; returns what later images need of a support set."""
    own = [(x[..., f].mean(), x[..., f].var()) for f in range(x.shape[-1])], len(x)
    support, images = own if given is None else given
    scale, offset = row["blend"]
    a = 1 / (1 + np.exp(-(scale * images + offset)))
    y = np.empty_like(x)
    for n, f in np.ndindex(len(x), x.shape[-1]):
        (m_s, v_s), m_i, v_i = support[f], x[n, ..., f].mean(), x[n, ..., f].var()
        m = a * m_s + (1 - a) * m_i
        v = a * (v_s + (m_s - m) ** 2) + (1 - a) * (v_i + (m_i - m) ** 2)
        y[n, ..., f] = (x[n, ..., f] - m) / np.sqrt(v + 1e-5) * row["scale"][f] + row["bias"][f]
    return y, own


def forward_numpy(params, norm, x, given=None):
    left = {}
    for name in LAYERS:
        x = conv_numpy(x, **params[f"conv{name}"])
        x, left[name] = task_norm_numpy(x, norm[f"norm{name}"], given and given[name])
        if name == "0":
            n, h, w, f = x.shape
            x = x.reshape(n, h // 2, 2, w // 2, 2, f).max((2, 4))
        x = np.where(x > 0, x, 0.01 * x)
    return x.reshape(len(x), -1) @ params["linear"]["kernel"] + params["linear"]["bias"], left


def cross_entropy_numpy(logits, labels):
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -log_p[np.arange(len(labels)), labels].mean()


def support_gradient_numpy(params, norm, episode, epsilon=1e-5):
    """By central differences, one weight after another."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    flat = np.asarray(flat)

    def loss(at):
        tree = jax.tree.map(np.asarray, unravel(jnp.asarray(at)))
        logits, _ = forward_numpy(tree, norm, episode.support.inputs)
        return cross_entropy_numpy(logits, episode.support.targets)

    steps = epsilon * np.eye(len(flat))
    gradient = [(loss(flat + step) - loss(flat - step)) / (2 * epsilon) for step in steps]
    return jax.tree.map(np.asarray, unravel(jnp.asarray(np.array(gradient))))


def loss_numpy(params, norm, episode, gradients=None):
    """The multi-step loss; with the support gradients of every step given, as first order sees it."""
    losses, found = [], []
    for i in range(STEPS):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], norm)
        gradient = gradients[i] if gradients else support_gradient_numpy(params, row, episode)
        found.append(gradient)
        params = jax.tree.map(lambda p, g: p - RATE * g, params, gradient)
        _, support = forward_numpy(params, row, episode.support.inputs)
        logits, _ = forward_numpy(params, row, episode.query.inputs, support)
        losses.append(cross_entropy_numpy(logits, episode.query.targets))
    return np.mean(losses), found


@pytest.fixture(scope="module", autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def problem():
    """A learner, its meta-parameters away from their start, and one task whose sets differ in size."""
    learner = Learner(make_forward(TwoBlocks()), sgd(RATE), STEPS, statistics="tasknorm")
    state = init_state(
        learner,
        init_model(TwoBlocks(), jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 1))),
        optax.sgd(0.1),
    )
    rng = np.random.default_rng(0)
    meta = jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf) + 0.3 * rng.normal(size=leaf.shape)), state.meta
    )
    labels = np.arange(WAY)
    patterns = 2 * rng.normal(size=(WAY, SIZE, SIZE, 1))
    support = np.tile(patterns, (2, 1, 1, 1)) + rng.normal(size=(2 * WAY, SIZE, SIZE, 1))
    query = np.tile(patterns, (3, 1, 1, 1)) + rng.normal(size=(3 * WAY, SIZE, SIZE, 1))
    episode = Episode(Batch(support, np.tile(labels, 2)), Batch(query, np.tile(labels, 3)))
    return learner, meta, episode


def loss_of(learner, meta, episode, order=2):
    plan = StepPlan(jnp.full(STEPS, 1 / STEPS), order, multi_step=True)
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], episode)
    return meta_loss(learner, meta, {}, batch, plan)[0]


def random_direction(meta, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), meta)


def along(gradient, direction):
    products = jax.tree.map(lambda g, d: float(jnp.sum(g * d)), gradient, direction)
    return sum(jax.tree.leaves(products))


def moved(meta, direction, distance):
    return jax.tree.map(lambda m, d: m + distance * d, meta, direction)


@pytest.mark.parametrize("given", [False, True])
def test_the_layer_is_the_papers_formula(given):
    rng = np.random.default_rng(0)
    x, support = 1 + rng.normal(size=(3, 4, 4, 2)), 2 * rng.normal(size=(7, 4, 4, 2))
    row = {
        "scale": rng.normal(size=2),
        "bias": rng.normal(size=2),
        "blend": np.array([0.11, -0.3]),
    }
    layer, offset = PerStepBatchNorm(), jnp.array([3.0, -1.0])
    variables, expected_given = {"norm": row}, None
    if given:
        _, left = layer.apply({"norm": row}, jnp.asarray(support), offset, mutable=["moments"])
        variables["batch_stats"] = left["moments"]
        expected_given = task_norm_numpy(support, row, None)[1]
    y, _ = layer.apply(variables, jnp.asarray(x), offset, mutable=["moments"])
    expected, _ = task_norm_numpy(x, row, expected_given)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


def test_the_meta_loss_is_the_brute_force_programs(problem):
    learner, meta, episode = problem
    params, norm = jax.tree.map(np.asarray, (meta.params, meta.norm))
    expected, _ = loss_numpy(params, norm, episode)
    for order in (1, 2):
        loss = jax.jit(partial(loss_of, learner, order=order))(meta, episode)
        assert float(loss) == pytest.approx(expected, rel=1e-8)


def test_the_second_order_gradient_is_that_of_finite_differences(problem):
    learner, meta, episode = problem
    loss = jax.jit(partial(loss_of, learner))
    gradient = jax.jit(jax.grad(partial(loss_of, learner)))(meta, episode)
    for seed in range(3):
        direction = random_direction(meta, seed)
        ends = [float(loss(moved(meta, direction, e), episode)) for e in (1e-6, -1e-6)]
        slope = (ends[0] - ends[1]) / 2e-6
        assert along(gradient, direction) == pytest.approx(slope, rel=1e-6, abs=1e-8)
    for layer in gradient.norm.values():
        assert np.all(np.abs(layer["blend"]) > 1e-6)


@pytest.mark.slow
def test_the_first_order_gradient_holds_the_support_gradients_fixed(problem):
    learner, meta, episode = problem
    gradient = jax.jit(jax.grad(partial(loss_of, learner, order=1)))(meta, episode)
    params, norm = jax.tree.map(np.asarray, (meta.params, meta.norm))
    _, fixed = loss_numpy(params, norm, episode)
    direction = random_direction(meta)
    ends = []
    for distance in (1e-5, -1e-5):
        there = jax.tree.map(np.asarray, moved(meta, direction, distance))
        ends.append(loss_numpy(there.params, there.norm, episode, fixed)[0])
    slope = (ends[0] - ends[1]) / 2e-5
    assert along(gradient, direction) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(jnp.float32, 1e-6, marks=pytest.mark.slow), (jnp.float64, 1e-12)],
)
def test_a_prediction_does_not_depend_on_the_other_queries(dtype, tolerance):
    learner = Learner(make_forward(Conv4(ways=3, filters=4)), sgd(0.1), 2, statistics="tasknorm")
    state = init_state(
        learner,
        init_model(learner_module(), jax.random.key(0), jnp.zeros((1, 16, 16, 1))),
        optax.sgd(0.1),
    )
    rng = np.random.default_rng(0)
    meta, episode = jax.tree.map(
        lambda leaf: leaf if leaf.dtype == np.int64 else jnp.asarray(leaf, dtype),
        (
            state.meta,
            Episode(
                Batch(rng.normal(size=(3, 16, 16, 1)), np.arange(3)),
                Batch(rng.normal(size=(6, 16, 16, 1)), np.zeros(6, np.int64)),
            ),
        ),
    )
    predict = jax.jit(lambda episode: task_logits(learner, meta, {}, episode, every_step=True)[0])
    together = predict(episode)
    for chosen in map(np.array, ([0], [5, 2])):
        query = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], episode.query)
        alone = predict(episode._replace(query=query))
        np.testing.assert_allclose(alone, together[:, chosen], atol=tolerance)


def learner_module():
    return Conv4(ways=3, filters=4)


def with_blend(meta, scale, offset):
    blend = jnp.array([scale, offset])
    norm = {
        name: {**layer, "blend": jnp.tile(blend, (STEPS, 1))} for name, layer in meta.norm.items()
    }
    return meta._replace(norm=norm)


@pytest.mark.slow
def test_the_ends_of_the_blend_are_support_statistics_and_instance_norm(problem):
    learner, meta, episode = problem
    like_support = loss_of(learner, with_blend(meta, 0.0, 50.0), episode)
    assert float(like_support) == pytest.approx(
        float(loss_of(dataclasses.replace(learner, statistics="support"), meta, episode)), rel=1e-10
    )
    # The blend changes with the number of support images, and with nothing else.
    at_four = with_blend(meta, 0.1, 0.2), with_blend(meta, -0.1, 1.0)  # four support images
    losses = [float(loss_of(learner, blended, episode)) for blended in at_four]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    alone = [
        float(loss_of(learner, with_blend(meta, 0.0, -50.0), episode._replace(support=support)))
        for support in (
            episode.support,
            episode.support._replace(inputs=episode.support.inputs[[0, 1, 0, 1]]),
        )
    ]
    assert alone[0] != alone[1]  # through the inner loop, not through the statistics


def test_only_training_with_it_adds_meta_parameters():
    variables = init_model(TwoBlocks(), jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 1)))
    learner = Learner(make_forward(TwoBlocks()), sgd(RATE), STEPS)

    def numbers(**options):
        state = init_state(dataclasses.replace(learner, **options), variables, optax.sgd(0.1))
        return sum(leaf.size for leaf in jax.tree.leaves(state.meta))

    for per_step in (True, False):
        base = numbers(per_step_affine=per_step)
        for mode in ("support", "running"):
            assert numbers(statistics=mode, per_step_affine=per_step) == base
        added = numbers(statistics="tasknorm", per_step_affine=per_step) - base
        assert added == 2 * len(LAYERS) * (STEPS if per_step else 1)


def test_other_modes_ignore_the_blend_and_a_model_without_one_is_refused(problem):
    learner, meta, episode = problem
    plain = meta._replace(
        norm={
            name: {k: v for k, v in layer.items() if k != "blend"}
            for name, layer in meta.norm.items()
        }
    )
    for mode in ("batch", "support"):
        other = dataclasses.replace(learner, statistics=mode)
        assert float(loss_of(other, meta, episode)) == float(loss_of(other, plain, episode))
    with pytest.raises(ValueError, match=r"'tasknorm'.*not learned blend"):
        loss_of(learner, plain, episode)
