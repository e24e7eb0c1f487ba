"""Max pooling with cheap higher derivatives and a definite choice among ties.

`lax.reduce_window` differentiates twice into select-and-scatter, which is slow, and ``jnp.max`` over a
reshaped axis splits the gradient among ties, of which binary images are full. Here pooling is "choose,
then take": taking the chosen elements is linear, its transpose puts them back, and each is the other's
derivative, so that gradients of any order read one byte per window instead of masks as large as the image.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from mamlpp_jax.types import Array


def max_pool_2x2(x: Array, sign: Array | float = 1.0) -> Array:
    """2x2 max pooling with stride 2; the gradient goes to the first of tied elements, row by row.

    Args:
        x: [N, H, W, F]. A last odd row or column is dropped, as by "valid" pooling.
        sign: 1, or [F] of 1 and -1; -1 takes the smallest element of a channel instead.

    Returns:
        [N, H // 2, W // 2, F].
    """
    return take(x.shape[1:3], x, choose(lax.stop_gradient(x), sign))


def _corners(x: Array) -> tuple[Array, Array, Array, Array]:
    """The four elements of every window, row by row, each [N, H // 2, W // 2, F]."""
    batch, high, wide, channels = x.shape
    high, wide = high // 2, wide // 2
    windows = x[:, : 2 * high, : 2 * wide].reshape(batch, high, 2, wide, 2, channels)
    upper, lower = windows[:, :, 0], windows[:, :, 1]
    return upper[:, :, :, 0], upper[:, :, :, 1], lower[:, :, :, 0], lower[:, :, :, 1]


def choose(x: Array, sign: Array | float) -> Array:
    """The position of the largest element of ``sign * x`` in each window, uint8: 0 to 3, row by row."""
    sign = jnp.reshape(jnp.asarray(sign, x.dtype), (1, 1, 1, -1))
    a, b, c, d = (corner * sign for corner in _corners(x))
    upper, lower = jnp.where(a >= b, 0, 1), jnp.where(c >= d, 2, 3)
    above = jnp.maximum(a, b) >= jnp.maximum(c, d)
    return jnp.where(above, upper, lower).astype(jnp.uint8)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def take(size: tuple[int, int], x: Array, choice: Array) -> Array:
    """The chosen element of every window of images [N, *size, F]."""
    a, b, c, d = _corners(x)
    upper, lower = jnp.where(choice == 0, a, b), jnp.where(choice == 2, c, d)
    return jnp.where(choice < 2, upper, lower)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def put(size: tuple[int, int], y: Array, choice: Array) -> Array:
    """Puts y at the chosen element of every window of zeros: [N, *size, F]."""
    batch, high, wide, channels = y.shape
    corner = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    chosen = choice[:, :, None, :, None, :] == corner
    windows = jnp.where(chosen, y[:, :, None, :, None, :], jnp.zeros((), y.dtype))
    x = windows.reshape(batch, 2 * high, 2 * wide, channels)
    return jnp.pad(x, ((0, 0), (0, size[0] - 2 * high), (0, size[1] - 2 * wide), (0, 0)))


take.defvjp(
    lambda size, x, choice: (take(size, x, choice), choice),
    lambda size, choice, dy: (put(size, dy, choice), None),
)
put.defvjp(
    lambda size, y, choice: (put(size, y, choice), choice),
    lambda size, choice, dx: (take(size, dx, choice), None),
)
