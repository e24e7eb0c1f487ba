"""Sampling episodes on the device, inside jit; `host_episodes` samples the same ones where the data do not fit.

A task depends on a key, the outer step and its global index alone: the same tasks come for any number of
devices and any chunk size, and a resumed run samples what the uninterrupted one would have sampled.

Sampling without replacement sorts random uint32 bits (stably), which host and device do identically.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.types import Array, Batch, Episode, SampleTasks

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

_LAST = np.uint32(0xFFFFFFFF)
# Mean and deviation of each channel, of pixels in 0..1.
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((0.0,), (1.0,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class TaskSource(NamedTuple):
    """The images and classes that tasks are sampled from; a pytree that lives on the device."""

    images: Array  # uint8 [T, H, W, C], every image of the data set, of all splits
    starts: Array  # int32 [classes], first image of each class of this split
    sizes: Array  # int32 [classes], images of each class of this split
    key: Array  # random key of this stream of tasks

    def task_images(
        self, step: Array, index: Array, spec: TaskSpec, max_class_size: int
    ) -> tuple[Array, Array]:
        """The images of one task, uint8 [K, shot + query, H, W, C], and the classes' quarter rotations [K]."""
        key = task_key(self.key, step, index)
        indices, rotations = sample_indices(key, self.starts, self.sizes, spec, max_class_size)
        return self.images[indices], rotations


class TaskSpec(NamedTuple):
    """The static part of sampling."""

    way: int  # classes of a task
    shot: int  # support images per class
    query: int  # query images per class
    rotations: int = 1  # 4 when every 90-degree rotation of a class is a class of its own, else 1
    mean: tuple[float, ...] = (0.0,)  # per-channel mean taken off pixels in 0..1
    std: tuple[float, ...] = (1.0,)  # per-channel deviation they are divided by


def class_rows(dataset: Dataset, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Int32 starts and sizes of the rows of some classes in `dataset.images`."""
    sizes = np.asarray(dataset.class_sizes, np.int32)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    return starts[classes], sizes[classes]


def task_key(key: Array, step: Array, index: Array) -> Array:
    """The random key of one task of a stream: of its outer step and its global index in the meta-batch."""
    return jax.random.fold_in(jax.random.fold_in(key, step), index)


def sample_indices(
    key: Array, starts: Array, sizes: Array, spec: TaskSpec, max_class_size: int
) -> tuple[Array, Array]:
    """Samples the images of one task from classes with these starts and sizes (at least shot + query), int32 [classes].

    Returns:
        int32 [way, shot + query] image indices, no image twice in a class, and int32 [way] quarter rotations.
    """
    class_key, image_key = jax.random.split(key)
    order = _order(jax.random.bits(class_key, (len(starts) * spec.rotations,)))
    chosen = order[: spec.way]
    base, rotations = chosen // spec.rotations, chosen % spec.rotations
    # One bit less than 32, so that the padding of small classes sorts behind every real image.
    bits = jax.random.bits(image_key, (spec.way, max_class_size)) >> 1
    absent = jnp.arange(max_class_size) >= sizes[base][:, None]
    within = _order(jnp.where(absent, _LAST, bits))
    return starts[base][:, None] + within[:, : spec.shot + spec.query], rotations


def _order(bits: Array) -> Array:
    """Positions that sort the last axis, as `jnp.argsort(bits, stable=True)`.

    Inside `shard_map`, `jnp.argsort` forgets that its result differs between devices; positions made
    from the bits themselves do not.
    """
    positions = jnp.zeros_like(bits, jnp.int32) + jnp.arange(bits.shape[-1], dtype=jnp.int32)
    return jax.lax.sort((bits, positions), is_stable=True, num_keys=1)[1]


def rotate(images: Array, rotations: Array) -> Array:
    """Rotates images [K, n, H, W, C] by [K] quarters of a full rotation."""
    return jax.vmap(
        lambda group, quarters: jax.lax.switch(
            quarters, [lambda g, k=k: jnp.rot90(g, k, axes=(1, 2)) for k in range(4)], group
        )
    )(images, rotations)


def normalize(
    images: UInt8[Array, "*shape C"], mean: Sequence[float], std: Sequence[float]
) -> Float32[Array, "*shape C"]:
    """Converts uint8 images [..., C] to float32 with the mean and deviation of each channel, of pixels in 0..1.

    Example:
        >>> maml.normalize(jnp.full((1, 1, 1), 255, jnp.uint8), mean=(0.5,), std=(0.5,)).item()
        1.0
    """
    pixels = images.astype(jnp.float32) / 255.0
    return (pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def assemble(images: Array, rotations: Array, spec: TaskSpec) -> Episode:
    """Makes the images of one task, uint8 [K, shot + query, H, W, C], an episode of floats."""
    if spec.rotations > 1:
        images = rotate(images, rotations)
    pixels = normalize(images, spec.mean, spec.std)
    support, query = pixels[:, : spec.shot], pixels[:, spec.shot :]
    labels = jnp.arange(spec.way, dtype=jnp.int32)
    return Episode(
        Batch(support.reshape(-1, *support.shape[2:]), jnp.repeat(labels, spec.shot)),
        Batch(query.reshape(-1, *query.shape[2:]), jnp.repeat(labels, spec.query)),
    )


def make_sample_tasks(spec: TaskSpec, max_class_size: int) -> SampleTasks:
    """The function that samples tasks: ``(source, step, task_indices [B]) -> Episode`` with a leading B.

    The source is a `TaskSource`, or a `host_episodes.HostBatch` that has these tasks; `max_class_size` is the number
    of images of the data set's largest class.
    """

    def sample_one(source: Any, step: Array, index: Array) -> Episode:
        images, rotations = source.task_images(step, index, spec, max_class_size)
        return assemble(images, rotations, spec)

    return jax.vmap(sample_one, in_axes=(None, None, 0))
