"""The inner loop against a plain Python loop on a small differentiable model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mamlpp_jax.algorithms.inner_loop import adapt, cross_entropy, query_pass, row_at, step_rows
from mamlpp_jax.algorithms.inner_optimizers import InnerOptimizer, lslr, make_inner_optimizer, sgd
from mamlpp_jax.types import Episode

STEPS, K = 3, 4


def forward(params, norm, images, statistics=None):
    """A tiny backbone that normalises its features, with the moments of the real one."""
    x = images @ params["w"]
    mean, var = x.mean(0), x.var(0)
    moments = {"norm0": {"mean": mean, "var": var, "count": jnp.asarray(len(x), x.dtype)}}
    if statistics is not None:
        mean, var = statistics["norm0"]["mean"], statistics["norm0"]["var"]
    return (x - mean) / jnp.sqrt(var + 1e-3) * norm["norm0"]["scale"] + norm["norm0"][
        "bias"
    ], moments


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
    rows = step_rows(norm, rates, running, STEPS)

    def query(theta, row):
        return query_pass(forward, statistics, theta, row, episode)[0]

    theta, trace = adapt(
        forward, lslr(0.1), params, rows, episode, statistics=statistics, after_step=query
    )
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
    row = row_at(step_rows(norm, rates, running, STEPS), 0)
    alone = episode._replace(query_images=episode.query_images[:1])
    for statistics, independent in (("support", True), ("running", True), ("batch", False)):
        together, _ = query_pass(forward, statistics, params, row, episode)
        single, _ = query_pass(forward, statistics, params, row, alone)
        assert np.allclose(together[0], single[0], atol=1e-5) == independent


def test_gradients_flow_through_the_support_statistics(problem):
    params, norm, running, episode, rates = problem
    row = row_at(step_rows(norm, rates, running, STEPS), 0)

    def loss(support_images):
        changed = episode._replace(support_images=support_images)
        logits, _ = query_pass(forward, "support", params, row, changed)
        return cross_entropy(logits, episode.query_labels)

    assert float(jnp.abs(jax.grad(loss)(episode.support_images)).max()) > 1e-4


def test_first_order_stops_the_gradient_of_the_gradient_only(problem):
    params, norm, running, episode, rates = problem

    def meta_loss(params, rates, order):
        rows = step_rows(norm, rates, running, STEPS)
        theta, _ = adapt(forward, lslr(0.1), params, rows, episode, order=order)
        logits, _ = query_pass(forward, "batch", theta, row_at(rows, -1), episode)
        return cross_entropy(logits, episode.query_labels)

    gradients = {order: jax.grad(meta_loss, (0, 1))(params, rates, order) for order in (1, 2)}
    assert float(meta_loss(params, rates, 1)) == pytest.approx(float(meta_loss(params, rates, 2)))
    # First order: the gradient at theta_0 is the query gradient at theta_S.
    rows = step_rows(norm, rates, running, STEPS)
    theta, _ = adapt(forward, lslr(0.1), params, rows, episode)

    def query_loss(w):
        logits, _ = forward({"w": w}, row_at(rows, -1).norm, episode.query_images)
        return cross_entropy(logits, episode.query_labels)

    np.testing.assert_allclose(gradients[1][0]["w"], jax.grad(query_loss)(theta["w"]), atol=1e-5)
    assert float(jnp.abs(gradients[1][0]["w"] - gradients[2][0]["w"]).max()) > 1e-3
    assert np.all(np.abs(gradients[1][1]["w"]) > 0)


def test_rows_share_repeat_and_truncate():
    norm = {"norm0": {"scale": jnp.arange(2.0)}}
    inner = {"w": jnp.array([0.1, 0.2])}
    running = {"norm0": {"mean": jnp.arange(4.0).reshape(2, 2)}}
    longer = step_rows(norm, inner, running, 4)
    assert longer.norm["norm0"]["scale"].shape == (4, 2)
    np.testing.assert_allclose(longer.inner["w"], [0.1, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(longer.running["norm0"]["mean"][3], [2, 3])
    np.testing.assert_allclose(step_rows(norm, inner, running, 1).inner["w"], [0.1])


def test_plain_sgd_learns_nothing_and_uses_one_rate(problem):
    params, norm, running, episode, _ = problem
    fixed = sgd(0.2)
    assert jax.tree.leaves(fixed.init(params, STEPS)) == []
    same_rates = lslr(0.2).init(params, STEPS)
    by_sgd, _ = adapt(forward, fixed, params, step_rows(norm, {}, running, STEPS), episode)
    by_lslr, _ = adapt(
        forward, lslr(0.2), params, step_rows(norm, same_rates, running, STEPS), episode
    )
    np.testing.assert_allclose(by_sgd["w"], by_lslr["w"], rtol=1e-6)


def test_a_stateful_transformation_carries_its_state_over_the_steps(problem):
    params, norm, running, episode, _ = problem
    momentum = InnerOptimizer(lambda params, steps: {}, lambda row: optax.sgd(0.1, momentum=0.9))
    rows = step_rows(norm, {}, running, STEPS)
    theta, _ = adapt(forward, momentum, params, rows, episode)
    w, velocity = params["w"], 0.0
    for i in range(STEPS):

        def loss(w, i=i):
            logits, _ = forward({"w": w}, row_at(rows, i).norm, episode.support_images)
            return cross_entropy(logits, episode.support_labels)

        velocity = 0.9 * velocity + jax.grad(loss)(w)
        w = w - 0.1 * velocity
    np.testing.assert_allclose(theta["w"], w, rtol=1e-4, atol=1e-5)


def test_unknown_inner_optimizer_lists_the_known():
    with pytest.raises(ValueError, match=r"adagrad.*sgd, lslr"):
        make_inner_optimizer("adagrad", 0.1)
