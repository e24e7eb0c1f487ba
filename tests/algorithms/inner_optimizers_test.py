"""Every inner optimizer, and any optax transformation, against a plain Python loop of `jax.grad` in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mamlpp_jax.algorithms.inner_optimizers import (
    InnerOptimizer,
    alfa,
    away_from_zero,
    lslr,
    masked,
    metasgd,
    sgd,
)
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.metacurvature import metacurvature
from mamlpp_jax.statistics import STATISTICS
from tests.helpers.plain_loop import (
    STEPS,
    assert_gradient_is_that_of_a_plain_loop,
    forward,
)


def fixed(*links):
    """An inner optimizer of optax transformations, which learns nothing."""
    return InnerOptimizer(lambda params, num_steps: {}, lambda learned: optax.chain(*links))


def learned_rates_behind(*links):
    rates = lslr(0.3)
    return InnerOptimizer(
        rates.init, lambda learned: optax.chain(*links, rates.transform(learned)), rates.rates
    )


def of_kernels(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


OPTIMIZERS = {
    "sgd": sgd(0.3),
    "lslr": lslr(0.3),
    "metasgd": metasgd(0.3),
    "metasgd per step": metasgd(0.3, per_step=True),
    "alfa": alfa(0.3),
    "metacurvature": metacurvature(0.3),
    "metacurvature per step": metacurvature(0.3, per_step=True),
    "lslr of the head": masked(lslr(0.3), lambda path: path.startswith("linear/")),
    "alfa of the body": masked(alfa(0.3), lambda path: path.startswith("body/")),
    "momentum": fixed(optax.sgd(0.2, momentum=0.9)),
    "nesterov": fixed(optax.sgd(0.2, momentum=0.9, nesterov=True)),
    "learned rates behind a trace": learned_rates_behind(optax.trace(0.9)),
    "clip": fixed(optax.clip(0.02), optax.sgd(0.3)),
    "clip by norm": fixed(optax.clip_by_global_norm(0.1), optax.sgd(0.3)),
    "weight decay": fixed(optax.add_decayed_weights(0.1), optax.sgd(0.3)),
    "masked decay": fixed(optax.masked(optax.add_decayed_weights(0.1), of_kernels), optax.sgd(0.3)),
    "inject_hyperparams": fixed(
        optax.inject_hyperparams(optax.sgd)(
            learning_rate=optax.linear_schedule(0.3, 0.1, 2), momentum=0.5
        )
    ),
    "adam with eps_root": fixed(optax.adam(0.05, eps_root=1e-8)),
    "guarded adam": fixed(away_from_zero(), optax.adam(0.05)),
    "rmsprop": fixed(optax.rmsprop(0.05)),
}
SAMPLE = [
    ("momentum", 2, "support", True),
    ("adam with eps_root", 2, "batch", False),
    ("inject_hyperparams", 1, "running", True),
    ("alfa of the body", 2, "support", False),
    ("metasgd", 1, "batch", True),
    ("clip by norm", 2, "batch", False),
    ("lslr", 2, "tasknorm", False),
    ("sgd", 2, "renorm", False),
    ("metacurvature", 2, "support", False),
]
GRID = list(itertools.product(OPTIMIZERS, (1, 2), STATISTICS, (False, True)))
CASES = [*SAMPLE, *(pytest.param(*case, marks=pytest.mark.slow) for case in GRID)]


@pytest.mark.parametrize(("name", "order", "mode", "remat"), CASES)
def test_the_meta_gradient_is_that_of_a_plain_loop(name, order, mode, remat):
    optimizer = OPTIMIZERS[name]
    with jax.enable_x64(True):
        learner = Learner(forward, optimizer, STEPS, statistics=mode, remat=remat)
        assert_gradient_is_that_of_a_plain_loop(learner, order)


def test_learned_parts_have_an_entry_per_step_or_one_that_all_share():
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    assert lslr(0.1).init(params, 4)["kernel"].shape == (4,)
    assert metasgd(0.1).init(params, 4)["kernel"].shape == (1, 3, 2)
    assert metasgd(0.1, per_step=True).init(params, 4)["kernel"].shape == (4, 3, 2)
    learned = alfa(0.1).init(params, 4)
    assert learned["rate"]["kernel"].shape == learned["decay"]["kernel"].shape == (4,)
    assert learned["generator"]["kernel0"].shape == (1, 4, 4)
    assert alfa(0.1).rates(learned) == learned["rate"]


def test_alfa_is_its_formula():
    """Written out in NumPy, for one tensor: the network sees one mean of each kind."""
    rng = np.random.default_rng(0)
    theta, gradient = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    k0, k1 = rng.normal(size=(2, 2, 2))
    b0, b1 = rng.normal(size=(2, 2))
    rate, decay = 0.3, 0.01
    learned = {
        "rate": {"w": rate},
        "decay": {"w": decay},
        "generator": {"kernel0": k0, "bias0": b0, "kernel1": k1, "bias1": b1},
    }
    hidden = np.maximum(np.array([theta.mean(), gradient.mean()]) @ k0 + b0, 0)
    a, b = 1 + hidden @ k1 + b1
    transform = alfa(0.1).transform(jax.tree.map(jnp.asarray, learned))
    params, gradients = {"w": jnp.asarray(theta)}, {"w": jnp.asarray(gradient)}
    updates, _ = transform.update(gradients, transform.init(params), params)
    expected = (1 - decay * b) * theta - rate * a * gradient
    np.testing.assert_allclose(theta + updates["w"], expected, rtol=1e-5)


def test_alfa_begins_as_gradient_descent_with_hardly_any_decay():
    params, gradients = {"w": jnp.full(3, 2.0)}, {"w": jnp.array([1.0, -1.0, 0.5])}
    row = jax.tree.map(lambda leaf: leaf[0], alfa(0.1).init(params, 2))
    updates, _ = alfa(0.1).transform(row).update(gradients, optax.EmptyState(), params)
    np.testing.assert_allclose(updates["w"], -0.1 * gradients["w"] - 5e-5 * 2, rtol=1e-5)


def is_finite_at(gradients, *links):
    """Whether two steps with these gradients can be differentiated with respect to them."""
    transform = optax.chain(*links)

    def end(gradients):
        params = jax.tree.map(jnp.ones_like, gradients)
        state = transform.init(params)
        for _ in range(2):
            updates, state = transform.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))

    derivatives = jax.grad(end)(gradients)
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(derivatives))


SOME, ALL = {"a": jnp.array([0.0, 1.0])}, {"a": jnp.zeros(2)}


@pytest.mark.parametrize(
    ("links", "zero"),
    [
        (optax.adam(0.1), SOME),
        (optax.adamw(0.1), SOME),
        (optax.lamb(0.1), SOME),
        (optax.rmsprop(0.1, eps_in_sqrt=False), SOME),
        (optax.clip_by_global_norm(1.0), ALL),
        (optax.clip_by_block_rms(1.0), ALL),
        (optax.adaptive_grad_clip(0.1), ALL),
    ],
)
def test_the_guard_makes_a_second_derivative_finite_where_there_is_none(links, zero):
    """The list in the module's docstring."""
    assert not is_finite_at(zero, links)
    assert is_finite_at(zero, away_from_zero(), links)


def test_the_guard_changes_nothing_elsewhere():
    gradients = {"w": jnp.array([1e-3, -2.0, 1e-11])}
    guard = away_from_zero()
    updates, _ = guard.update(gradients, guard.init(gradients))
    np.testing.assert_array_equal(updates["w"], gradients["w"])
    assert is_finite_at(ALL, optax.adam(0.1, eps_root=1e-8))
    assert is_finite_at(ALL, optax.sgd(0.1, momentum=0.9), optax.clip(1.0))
