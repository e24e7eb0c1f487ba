"""Batch renormalisation: the values of running statistics, the derivatives of the batch's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.algorithms.task import at_step, make_task
from mamlpp_jax.models.layers import PerStepBatchNorm
from tests.helpers import small_learner as small

EPSILON = 1e-5


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def layer():
    rng = np.random.default_rng(0)
    x = 0.5 + 3 * rng.normal(size=(4, 2, 2, 3))
    norm = {"scale": 1 + 0.3 * rng.normal(size=3), "bias": rng.normal(size=3)}
    return x, norm, {"mean": rng.normal(size=3), "var": 0.5 + rng.random(3)}


def apply(x, norm, stats=None, offset=0.0):
    variables = {"norm": norm} | ({} if stats is None else {"batch_stats": stats})
    return PerStepBatchNorm().apply(variables, x, jnp.full(3, offset), mutable="moments")[0]


@pytest.mark.parametrize("anneal", [0.0, 0.4, 1.0])
def test_the_derivative_is_that_of_batch_norm_with_factor_and_shift_held(layer, anneal):
    """By central differences of the formula written out."""
    x, norm, stats = layer
    own, running = np.sqrt(x.var((0, 1, 2)) + EPSILON), np.sqrt(stats["var"] + EPSILON)
    r = (own / running) ** anneal
    d = anneal * (x.mean((0, 1, 2)) - stats["mean"]) / running

    def formula(x):
        normal = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + EPSILON)
        return (normal * r + d) * norm["scale"] + norm["bias"]

    direction = np.random.default_rng(1).normal(size=x.shape)
    marked = {**stats, "anneal": jnp.asarray(anneal)}
    value, slope = jax.jvp(lambda x: apply(x, norm, marked), (x,), (direction,))
    np.testing.assert_allclose(value, formula(x), atol=1e-12)
    step = 1e-5 * direction
    np.testing.assert_allclose(slope, (formula(x + step) - formula(x - step)) / 2e-5, atol=1e-8)


def test_the_ends_of_annealing_have_the_values_of_batch_and_of_running_statistics(layer):
    x, norm, stats = layer
    for anneal, expected in ((0.0, apply(x, norm)), (1.0, apply(x, norm, stats, 0.7))):
        marked = {**stats, "anneal": jnp.asarray(anneal)}
        # A bias before the layer cancels in batch norm alone.
        found = apply(x, norm, marked, 0.7)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_scale_of_the_input_has_no_slope_unlike_with_running_statistics(layer):
    """What keeps inner steps small, whatever the size of the weights before the layer."""
    x, norm, stats = layer
    x = x - x.mean((0, 1, 2))

    def slope(stats):
        return np.abs(jax.jvp(lambda x: apply(x, norm, stats), (x,), (x,))[1]).max()

    assert slope({**stats, "anneal": jnp.ones(())}) < 1e-4 < 1 < slope(stats)


def test_queries_are_predicted_alone_and_two_devices_take_the_steps_of_one():
    module, learner = small.make_learner(statistics="renorm")
    state, episodes = small.make_state(module, learner), small.make_episodes()
    one, _ = small.one_step(learner, state, episodes)
    two, _ = small.one_step(learner, state, episodes, devices=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), one, two)

    def first_query(episode):
        task = make_task(learner, one.meta, one.batch_stats, episode)
        return task.query(task.theta, at_step(task.per_step, 0))[0]

    episode = jax.tree.map(lambda leaf: leaf[0], episodes)
    alone = episode._replace(query=jax.tree.map(lambda leaf: leaf[:1], episode.query))
    np.testing.assert_allclose(first_query(alone)[0], first_query(episode)[0], atol=1e-12)
