"""Sampling tasks: what an episode contains, and that it depends on key, step and index alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.episodes import TaskSpec, assemble, sample_indices
from mamlpp_jax.data.pipeline import make_task_stream
from mamlpp_jax.distributed.mesh import make_mesh

SIZES = np.array([5, 3, 8, 4, 6], np.int32)


@pytest.fixture
def dataset():
    """Image i is filled with the value i, so that it can be recognised."""
    total = int(SIZES.sum())
    images = np.broadcast_to(
        np.arange(total, dtype=np.uint8)[:, None, None, None], (total, 4, 4, 1)
    )
    return Dataset("numbers", images.copy(), tuple("abcde"), SIZES)


def sample_many(dataset, spec, tasks=200, classes=(0, 1, 2, 3, 4), step=3, seed=0):
    images = jnp.asarray(dataset.images)
    mesh = make_mesh(1)
    stream = make_task_stream(dataset, np.array(classes), jax.random.key(seed), spec, mesh, images)
    source = stream.window(range(step, step + 1), range(tasks))
    return jax.device_get(stream.sample_tasks(source, jnp.int32(step), jnp.arange(tasks)))


def values(images):
    return np.round(images[..., 0, 0, 0] * 255).astype(int)


def classes_of(indices):
    return np.searchsorted(np.cumsum(SIZES), indices, side="right")


def test_support_and_query_are_disjoint_and_of_the_labelled_class(dataset):
    spec = TaskSpec(way=3, shot=2, query=1)
    episodes = sample_many(dataset, spec)
    assert episodes.support.inputs.shape == (200, 6, 4, 4, 1)
    assert episodes.query.inputs.shape == (200, 3, 4, 4, 1)
    np.testing.assert_array_equal(episodes.support.targets[0], [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(episodes.query.targets[0], [0, 1, 2])
    assert episodes.support.inputs.dtype == np.float32
    assert episodes.support.targets.dtype == np.int32
    support, query = values(episodes.support.inputs), values(episodes.query.inputs)
    for s, q in zip(support, query, strict=True):
        assert len({*s, *q}) == 9
        by_label = classes_of(np.concatenate([s.reshape(3, 2), q.reshape(3, 1)], axis=1))
        assert np.all(by_label == by_label[:, :1])
        assert len(set(by_label[:, 0])) == 3


def test_every_image_and_class_is_sampled_about_equally_often(dataset):
    episodes = sample_many(dataset, TaskSpec(way=2, shot=1, query=1), tasks=4000)
    sampled = values(episodes.support.inputs).ravel()
    class_counts = np.bincount(classes_of(sampled), minlength=5)
    np.testing.assert_allclose(class_counts / len(sampled), 0.2, atol=0.03)
    largest = np.bincount(sampled, minlength=SIZES.sum())[8:16]
    np.testing.assert_allclose(largest / largest.sum(), 1 / 8, atol=0.03)


def test_only_classes_of_the_split_are_sampled(dataset):
    episodes = sample_many(dataset, TaskSpec(way=2, shot=1, query=2), classes=(1, 4))
    assert set(classes_of(values(episodes.query.inputs).ravel())) == {1, 4}


def test_a_task_depends_on_key_step_and_index_alone(dataset):
    spec = TaskSpec(way=3, shot=1, query=1)
    whole = sample_many(dataset, spec, tasks=8)
    again = sample_many(dataset, spec, tasks=5)
    np.testing.assert_array_equal(whole.support.inputs[:5], again.support.inputs)
    for change in ({"step": 4}, {"seed": 1}):
        other = sample_many(dataset, spec, tasks=8, **change)
        assert not np.array_equal(whole.support.inputs, other.support.inputs)
    assert not np.array_equal(whole.support.inputs[0], whole.support.inputs[1])


def test_rotations_are_classes_of_their_own():
    images = np.zeros((4, 2, 2, 1), np.uint8)
    images[:, 0, 0] = 255  # a mark in the upper left corner
    dataset = Dataset("marks", images, ("a",), np.array([4], np.int32))
    spec = TaskSpec(way=4, shot=1, query=1, rotations=4)
    episodes = sample_many(dataset, spec, tasks=6, classes=(0,))
    for support, query in zip(episodes.support.inputs, episodes.query.inputs, strict=True):
        corners = [tuple(np.argwhere(image[..., 0] == 1)[0]) for image in support]
        assert len(set(corners)) == 4
        np.testing.assert_array_equal(support, query)


def test_rotations_are_those_of_numpy():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(4, 2, 5, 5, 1), dtype=np.uint8)
    episode = assemble(
        jnp.asarray(images), jnp.arange(4), TaskSpec(way=4, shot=1, query=1, rotations=4)
    )
    for k in range(4):
        expected = np.rot90(images[k, 0], k) / np.float32(255)
        np.testing.assert_allclose(episode.support.inputs[k], expected, atol=1e-6)


def test_pixels_are_normalised_per_channel():
    images = np.full((2, 2, 3, 3, 3), 51, np.uint8)
    spec = TaskSpec(2, 1, 1, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25))
    episode = assemble(jnp.asarray(images), jnp.zeros(2, jnp.int32), spec)
    np.testing.assert_allclose(episode.query.inputs[0, 0, 0], [0.1, 0.0, -0.4], atol=1e-6)


def test_sampling_is_the_sorting_of_random_bits(dataset):
    """What a host-side sampler has to do to sample the same tasks."""
    key = jax.random.key(7)
    starts = np.concatenate([[0], np.cumsum(SIZES)[:-1]]).astype(np.int32)
    spec = TaskSpec(way=3, shot=2, query=1)
    sampled, _ = sample_indices(key, jnp.asarray(starts), jnp.asarray(SIZES), spec, 8)
    class_key, image_key = jax.random.split(key)
    chosen = np.argsort(np.asarray(jax.random.bits(class_key, (5,))), kind="stable")[:3]
    bits = np.asarray(jax.random.bits(image_key, (3, 8))) >> 1
    for row, c in enumerate(chosen):
        order = np.argsort(bits[row, : SIZES[c]], kind="stable")[:3]
        np.testing.assert_array_equal(sampled[row], starts[c] + order)
