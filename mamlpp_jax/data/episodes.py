"""Drawing episodes on the device, inside jit; `host` draws the same ones where the data do not fit.

A task depends on a key, the outer step and its global index alone: the same tasks come for any number of
devices and any chunk size, and a resumed run draws what the uninterrupted one would have drawn.

Draws without replacement sort random uint32 bits (stably), which host and device do identically.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.types import Array, DrawTasks, Episode

_LAST = np.uint32(0xFFFFFFFF)
# Mean and deviation of each channel, of pixels in 0..1.
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((0.0,), (1.0,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class TaskSource(NamedTuple):
    """What episodes are drawn from; a pytree that lives on the device.

    Attributes:
        images: uint8 [T, H, W, C], every picture of the data set, of all splits.
        starts: int32 [classes], first picture of each class of this split.
        sizes: int32 [classes], pictures of each class of this split.
        key: the random key of this stream of tasks.
    """

    images: Array
    starts: Array
    sizes: Array
    key: Array

    def pictures(
        self, step: Array, index: Array, shape: TaskShape, largest: int
    ) -> tuple[Array, Array]:
        """The pictures of one task, uint8 [K, shot + query, H, W, C], and their quarter turns [K]."""
        key = task_key(self.key, step, index)
        rows, turns = draw_indices(key, self.starts, self.sizes, shape, largest)
        return self.images[rows], turns


class TaskShape(NamedTuple):
    """The static part of drawing.

    Attributes:
        way: classes of a task.
        shot: support images per class.
        query: query images per class.
        rotations: 4 when every quarter turn of a class is a class of its own, else 1.
        mean: per-channel mean taken off pixels in 0..1.
        std: per-channel deviation they are divided by.
    """

    way: int
    shot: int
    query: int
    rotations: int = 1
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def make_source(dataset: Dataset, classes: np.ndarray, images: Array, key: Array) -> TaskSource:
    """The source of one split.

    Args:
        dataset: gives the layout of the pictures.
        classes: int [classes], the split's class indices.
        images: `dataset.images`, already on the device; splits share them.
        key: a typed JAX random key.
    """
    starts, sizes = class_rows(dataset, classes)
    return TaskSource(images, jnp.asarray(starts), jnp.asarray(sizes), key)


def class_rows(dataset: Dataset, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the pictures of some classes lie: int32 starts and sizes."""
    sizes = np.asarray(dataset.class_sizes, np.int32)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    return starts[classes], sizes[classes]


def task_key(key: Array, step: Array, index: Array) -> Array:
    """The random key of one task of a stream: of its outer step and its global index in the meta-batch."""
    return jax.random.fold_in(jax.random.fold_in(key, step), index)


def draw_indices(
    key: Array, starts: Array, sizes: Array, shape: TaskShape, largest: int
) -> tuple[Array, Array]:
    """Which pictures make up one task.

    Args:
        key: of this task.
        starts: int32 [classes].
        sizes: int32 [classes], at least shot + query each.
        shape: the kind of task.
        largest: at least every class size; static.

    Returns:
        int32 [way, shot + query] picture indices, no picture twice in a row, and int32 [way] quarter turns.
    """
    class_key, image_key = jax.random.split(key)
    order = _order(jax.random.bits(class_key, (len(starts) * shape.rotations,)))
    chosen = order[: shape.way]
    base, turns = chosen // shape.rotations, chosen % shape.rotations
    # One bit less than 32, so that the padding of small classes sorts behind every real picture.
    bits = jax.random.bits(image_key, (shape.way, largest)) >> 1
    absent = jnp.arange(largest) >= sizes[base][:, None]
    within = _order(jnp.where(absent, _LAST, bits))
    return starts[base][:, None] + within[:, : shape.shot + shape.query], turns


def _order(bits: Array) -> Array:
    """Positions that sort the last axis, as `jnp.argsort(bits, stable=True)`.

    Inside `shard_map`, `jnp.argsort` forgets that its result differs between devices; positions made
    from the bits themselves do not.
    """
    positions = jnp.zeros_like(bits, jnp.int32) + jnp.arange(bits.shape[-1], dtype=jnp.int32)
    return jax.lax.sort((bits, positions), is_stable=True, num_keys=1)[1]


def _turn(images: Array, turns: Array) -> Array:
    """Rotates images [K, n, H, W, C] by [K] quarter turns."""
    return jax.vmap(
        lambda group, turn: jax.lax.switch(
            turn, [lambda g, k=k: jnp.rot90(g, k, axes=(1, 2)) for k in range(4)], group
        )
    )(images, turns)


def assemble(images: Array, turns: Array, shape: TaskShape) -> Episode:
    """Turns the pictures of one task, uint8 [K, shot + query, H, W, C], into an episode of floats."""
    if shape.rotations > 1:
        images = _turn(images, turns)
    mean, std = jnp.asarray(shape.mean, jnp.float32), jnp.asarray(shape.std, jnp.float32)
    pixels = (images.astype(jnp.float32) / 255.0 - mean) / std
    support, query = pixels[:, : shape.shot], pixels[:, shape.shot :]
    labels = jnp.arange(shape.way, dtype=jnp.int32)
    return Episode(
        support.reshape(-1, *support.shape[2:]),
        jnp.repeat(labels, shape.shot),
        query.reshape(-1, *query.shape[2:]),
        jnp.repeat(labels, shape.query),
    )


def make_draw(shape: TaskShape, largest: int) -> DrawTasks:
    """The function that draws tasks of one shape.

    Args:
        shape: the kind of task.
        largest: pictures of the largest class.

    Returns:
        ``draw(source, step, task_indices [B]) -> Episode`` with a leading B; the source is a `TaskSource`, or a
        `host.HostBatch` that has these tasks.
    """

    def draw_one(source: Any, step: Array, index: Array) -> Episode:
        pictures, turns = source.pictures(step, index, shape, largest)
        return assemble(pictures, turns, shape)

    return jax.vmap(draw_one, in_axes=(None, None, 0))
