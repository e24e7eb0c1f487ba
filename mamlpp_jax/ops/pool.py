"""Max pooling with cheap higher derivatives and a definite choice among ties."""

from __future__ import annotations

import jax.numpy as jnp

from mamlpp_jax.types import Array


def max_pool_2x2(x: Array) -> Array:
    """2x2 max pooling with stride 2; the gradient goes to the first of tied elements, row by row.

    `lax.reduce_window` differentiates twice into select-and-scatter, which is slow, and ``jnp.max``
    over a reshaped axis splits the gradient among ties. Binary images are full of ties.

    Args:
        x: [N, H, W, F]. A last odd row or column is dropped, as by "valid" pooling.

    Returns:
        [N, H // 2, W // 2, F].
    """
    batch, high, wide, channels = x.shape
    high, wide = high // 2, wide // 2
    windows = x[:, : 2 * high, : 2 * wide].reshape(batch, high, 2, wide, 2, channels)
    # Columns first: comparing rows first would pick another element of some ties.
    left, right = windows[:, :, :, :, 0], windows[:, :, :, :, 1]
    rows = jnp.where(left >= right, left, right)
    top, bottom = rows[:, :, 0], rows[:, :, 1]
    return jnp.where(top >= bottom, top, bottom)
