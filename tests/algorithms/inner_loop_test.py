"""The inner loop against a plain Python loop on a small differentiable model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mamlpp_jax.algorithms.inner_loop import adapt, query_pass
from mamlpp_jax.algorithms.inner_optimizers import (
    InnerOptimizer,
    lslr,
    restricted,
    sgd,
)
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.metrics import cross_entropy
from mamlpp_jax.algorithms.per_step import at_step, lay_out
from mamlpp_jax.types import Episode, MetaParams

STEPS, K = 3, 4


def forward(params, norm, images, bn_stats=None):
    """A tiny backbone that normalises its features, with the moments of the real one."""
    x = images @ params["w"]
    mean, var = x.mean(0), x.var(0)
    moments = {"norm0": {"mean": mean, "var": var, "count": jnp.asarray(len(x), x.dtype)}}
    if bn_stats is not None:
        mean, var = bn_stats["norm0"]["mean"], bn_stats["norm0"]["var"]
    return (x - mean) / jnp.sqrt(var + 1e-3) * norm["norm0"]["scale"] + norm["norm0"][
        "bias"
    ], moments


def learner_of(inner_optimizer=None, **options):
    return Learner(forward, inner_optimizer or lslr(0.1), STEPS, **options)


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {"w": normal(6, K)}
    norm = {"norm0": {"scale": 1 + 0.1 * normal(STEPS, K), "bias": 0.1 * normal(STEPS, K)}}
    running = {"norm0": {"mean": normal(STEPS, K), "var": 1 + jnp.square(normal(STEPS, K))}}
    labels = jnp.arange(K, dtype=jnp.int32)
    episode = Episode(normal(K, 6), labels, normal(2 * K, 6), jnp.repeat(labels, 2))
    rates = {"w": jnp.asarray([0.1, -0.05, 0.3])}
    return params, norm, running, episode, rates


@pytest.mark.parametrize("statistics", ["batch", "running", "support"])
def test_adapt_is_the_plain_loop(problem, statistics):
    params, norm, running, episode, rates = problem
    learner = learner_of(bn_mode=statistics)
    per_step = lay_out(learner, MetaParams(params, norm, rates), running)

    def query(theta, step):
        return query_pass(learner, theta, step, episode)[0]

    theta, trace = adapt(learner, params, per_step, episode, after_step=query)
    w = params["w"]
    for i in range(STEPS):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], norm)
        given = (
            jax.tree.map(lambda leaf, i=i: leaf[i], running) if statistics == "running" else None
        )

        def loss(w, row=row, given=given):
            logits, _ = forward({"w": w}, row, episode.support_images, given)
            return cross_entropy(logits, episode.support_labels)

        assert float(trace.support_loss[i]) == pytest.approx(float(loss(w)), rel=1e-5)
        w = w - rates["w"][i] * jax.grad(loss)(w)
        if statistics == "support":
            _, given = forward({"w": w}, row, episode.support_images)
        logits, _ = forward({"w": w}, row, episode.query_images, given)
        np.testing.assert_allclose(trace.after[i], logits, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(theta["w"], w, rtol=1e-4, atol=1e-5)


def test_support_statistics_answer_each_query_alone_and_batch_statistics_do_not(problem):
    params, norm, running, episode, rates = problem
    first = at_step(lay_out(learner_of(), MetaParams(params, norm, rates), running), 0)
    alone = episode._replace(query_images=episode.query_images[:1])
    for statistics, independent in (("support", True), ("running", True), ("batch", False)):
        learner = learner_of(bn_mode=statistics)
        together, _ = query_pass(learner, params, first, episode)
        single, _ = query_pass(learner, params, first, alone)
        assert np.allclose(together[0], single[0], atol=1e-5) == independent


def test_gradients_flow_through_the_support_statistics(problem):
    params, norm, running, episode, rates = problem
    learner = learner_of(bn_mode="support")
    first = at_step(lay_out(learner, MetaParams(params, norm, rates), running), 0)

    def loss(support_images):
        changed = episode._replace(support_images=support_images)
        logits, _ = query_pass(learner, params, first, changed)
        return cross_entropy(logits, episode.query_labels)

    assert float(jnp.abs(jax.grad(loss)(episode.support_images)).max()) > 1e-4


def test_first_order_stops_the_gradient_of_the_gradient_only(problem):
    params, norm, running, episode, rates = problem

    learner = learner_of()

    def meta_loss(params, rates, order):
        per_step = lay_out(learner, MetaParams(params, norm, rates), running)
        theta, _ = adapt(learner, params, per_step, episode, order=order)
        logits, _ = query_pass(learner, theta, at_step(per_step, -1), episode)
        return cross_entropy(logits, episode.query_labels)

    gradients = {order: jax.grad(meta_loss, (0, 1))(params, rates, order) for order in (1, 2)}
    assert float(meta_loss(params, rates, 1)) == pytest.approx(float(meta_loss(params, rates, 2)))
    # First order: the gradient at theta_0 is the query gradient at theta_S.
    per_step = lay_out(learner, MetaParams(params, norm, rates), running)
    theta, _ = adapt(learner, params, per_step, episode)

    def query_loss(w):
        logits, _ = forward({"w": w}, at_step(per_step, -1).norm, episode.query_images)
        return cross_entropy(logits, episode.query_labels)

    np.testing.assert_allclose(gradients[1][0]["w"], jax.grad(query_loss)(theta["w"]), atol=1e-5)
    assert float(jnp.abs(gradients[1][0]["w"] - gradients[2][0]["w"]).max()) > 1e-3
    assert np.all(np.abs(gradients[1][1]["w"]) > 0)


def test_plain_sgd_learns_nothing_and_uses_one_rate(problem):
    params, norm, running, episode, _ = problem
    thetas = []
    for optimizer in (sgd(0.2), lslr(0.2)):
        learner = learner_of(optimizer)
        learned = optimizer.init(params, STEPS)
        per_step = lay_out(learner, MetaParams(params, norm, learned), running)
        thetas.append(adapt(learner, params, per_step, episode)[0]["w"])
    assert jax.tree.leaves(sgd(0.2).init(params, STEPS)) == []
    np.testing.assert_allclose(*thetas, rtol=1e-6)


def test_a_stateful_transformation_carries_its_state_over_the_steps(problem):
    params, norm, running, episode, _ = problem
    learner = learner_of(
        InnerOptimizer(lambda params, steps: {}, lambda learned: optax.sgd(0.1, momentum=0.9))
    )
    per_step = lay_out(learner, MetaParams(params, norm, {}), running)
    theta, _ = adapt(learner, params, per_step, episode)
    w, velocity = params["w"], 0.0
    for i in range(STEPS):

        def loss(w, i=i):
            logits, _ = forward({"w": w}, at_step(per_step, i).norm, episode.support_images)
            return cross_entropy(logits, episode.support_labels)

        velocity = 0.9 * velocity + jax.grad(loss)(w)
        w = w - 0.1 * velocity
    np.testing.assert_allclose(theta["w"], w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("base", [sgd(0.5), lslr(0.5)])
def test_a_restricted_optimizer_adapts_the_chosen_tensors_alone(base):
    """The others stay at theta_0, and nothing is learned for them."""
    body = jnp.array([[1.0, -2.0, 0.5], [0.3, 1.5, -1.0]])
    params = {"body": {"kernel": body}, "head": {"kernel": jnp.ones((3, 2))}}
    head_only = restricted(base, lambda path: path.startswith("head/"))

    def two_layers(params, norm, images, bn_stats=None):
        return images @ params["body"]["kernel"] @ params["head"]["kernel"], {}

    learner = Learner(two_layers, head_only, 2)
    learned = head_only.init(params, 2)
    assert len(jax.tree.leaves(learned)) <= 1
    labels = jnp.array([0, 1])
    episode = Episode(jnp.eye(2), labels, jnp.eye(2), labels)

    def loss(params, learned):
        per_step = lay_out(learner, MetaParams(params, {}, learned), {})
        theta, _ = adapt(learner, params, per_step, episode)
        return jnp.sum(jnp.sin(theta["head"]["kernel"])), theta

    (_, theta), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, learned)
    np.testing.assert_array_equal(theta["body"]["kernel"], params["body"]["kernel"])
    assert np.all(np.asarray(theta["head"]["kernel"]) != 1.0)
    assert np.any(np.asarray(gradients[0]["body"]["kernel"]) != 0.0)  # second order
