"""Reptile's direction against a plain loop, and the minibatches of its inner steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.algorithms.inner_optimizers import sgd
from mamlpp_jax.algorithms.losses import cross_entropy
from mamlpp_jax.algorithms.reptile import minibatches, reptile_gradient
from mamlpp_jax.types import Batch, Episode
from tests.helpers.small_learner import STEPS, make_episodes, make_learner, make_state, plan

RATE = 0.1


def test_the_direction_is_where_a_plain_loop_went():
    """With as many query as support images the steps take one set after the other."""
    with jax.enable_x64(True):
        module, learner = make_learner(inner_optimizer=sgd(RATE))
        state, episodes = make_state(module, learner), make_episodes(tasks=2)
        found = jax.jit(lambda: reptile_gradient(learner, *state[1:3], episodes, plan()))()

        def loss(theta, norm, task, i):
            sets = episodes.support, episodes.query
            images, labels = (leaf[task] for leaf in sets[i % 2])
            row = jax.tree.map(lambda leaf: leaf[i], norm)
            return cross_entropy(learner.forward(theta, row, images)[0], labels)

        directions, norm_gradients, losses = [], [], []
        for task in range(2):
            theta = state.meta.params
            for i in range(STEPS):
                arguments = (theta, state.meta.norm, task, i)
                value, (gradient, of_norm) = jax.value_and_grad(loss, (0, 1))(*arguments)
                theta = jax.tree.map(lambda p, g: p - RATE * g, theta, gradient)
                losses.append(value)
                norm_gradients.append(of_norm)
            directions.append(jax.tree.map(jnp.subtract, state.meta.params, theta))
        mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *directions)
        of_norm = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *norm_gradients)
        for ours, plain in (
            (found.gradient.params, mean),
            (found.gradient.norm, of_norm),
            (found.loss, sum(losses) / len(losses)),
        ):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), ours, plain)


@pytest.mark.parametrize("unrolled", [1, STEPS])
def test_inner_steps_are_unrolled_since_scale_and_bias_learn_through_them(unrolled):
    module, learner = make_learner(inner_optimizer=sgd(RATE), unroll=unrolled)
    state, episodes = make_state(module, learner), make_episodes(tasks=2)
    traced = jax.make_jaxpr(lambda: reptile_gradient(learner, *state[1:3], episodes, plan()))()
    assert f"unroll={unrolled}\n" in str(traced)


def test_minibatches_are_balanced_and_use_every_image_before_any_twice():
    way, shot, query = 3, 2, 4
    labels, query_labels = (
        jnp.repeat(jnp.arange(way), number) for number in (shot, query)
    )  # in blocks of a class
    numbers = jnp.arange(way * (shot + query), dtype=jnp.float32)
    support, query_set = (
        Batch(numbers[: way * shot], labels),
        Batch(numbers[way * shot :], query_labels),
    )
    episode = Episode(support, query_set)
    images, of_images = minibatches(episode, 4)
    assert images.shape == of_images.shape == (4, way * shot)
    assert sorted(np.ravel(images[:3])) == sorted(np.asarray(numbers))
    np.testing.assert_array_equal(np.sort(of_images, axis=1), np.tile([0, 0, 1, 1, 2, 2], (4, 1)))
    np.testing.assert_array_equal(images[3], images[0])
    both = jnp.concatenate([labels, query_labels])
    np.testing.assert_array_equal(both[images.astype(int)], of_images)
    assert set(np.ravel(images[0])) == set(range(way * shot))  # the support set comes first
