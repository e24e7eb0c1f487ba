"""Batches of augmented images of all classes of a split, for supervised training."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamlpp_jax.data.episodes import TaskSource, TaskSpec, normalize, rotate, task_key
from mamlpp_jax.types import Array, Batch, Episode, SampleTasks

_PADDING = 8  # of 84 pixels; in proportion for other sizes
_JITTER = 0.4  # of brightness, contrast and saturation, as usual in few-shot pretraining


def make_sample_batches(spec: TaskSpec, batch_size: int, augment: bool) -> SampleTasks:
    """The function that samples batches: ``(TaskSource, step, indices [B]) -> Episode``, the query sets are batches.

    Every class of the split, each rotation its own, is equally frequent. Images and augmentations depend on the key of
    the source, the step and the index alone. The support sets are empty.

    Args:
        spec: rotations and normalisation; the rest is not read.
        batch_size: M, images of a batch.
        augment: whether to crop, flip and jitter the colours at random.
    """

    def sample_one(source: TaskSource, step: Array, index: Array) -> Episode:
        class_key, image_key, augment_key = jax.random.split(task_key(source.key, step, index), 3)
        classes = len(source.starts) * spec.rotations
        labels = jax.random.randint(class_key, (batch_size,), 0, classes)
        base, rotations = labels // spec.rotations, labels % spec.rotations
        within = jax.random.randint(image_key, (batch_size,), 0, source.sizes[base])
        images = source.images[source.starts[base] + within]
        if spec.rotations > 1:
            images = rotate(images[:, None], rotations)[:, 0]
        if augment:
            images = jax.vmap(augmented)(jax.random.split(augment_key, batch_size), images)
        inputs = normalize(images, spec.mean, spec.std)
        batch = Batch(inputs, labels.astype(jnp.int32))
        return Episode(jax.tree.map(lambda leaf: leaf[:0], batch), batch)

    return jax.vmap(sample_one, in_axes=(None, None, 0))


def augmented(key: Array, image: Array) -> Array:
    """An image [H, W, C] of 0..255, cropped at random, flipped by chance and with jittered colours, as floats."""
    import dm_pix as pix

    crop, flip, brightness, contrast, saturation = jax.random.split(key, 5)
    pad = max(1, round(_PADDING * image.shape[0] / 84))
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    x = pix.random_crop(crop, padded, image.shape).astype(jnp.float32) / 255
    x = pix.random_flip_left_right(flip, x)
    x = pix.random_brightness(brightness, x, _JITTER)
    x = pix.random_contrast(contrast, x, 1 - _JITTER, 1 + _JITTER)
    if image.shape[-1] == 3:
        x = pix.random_saturation(saturation, x, 1 - _JITTER, 1 + _JITTER)
    return 255 * jnp.clip(x, 0, 1)
