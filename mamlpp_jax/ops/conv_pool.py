"""Convolution of images with few channels and max pooling in one, and the moments of such a convolution.

With one channel and 64 filters, the convolution is 64 times as large as the images and four times as large as what
pooling leaves of it. Here one block of it exists at a time, forward and backward: the cotangent of a block is put
together from which elements were chosen. With a fixed choice c, ``<take(conv(x, w), c), dp>`` is a trilinear form,
as a convolution is, and its partial gradients are made of each other (`mamlpp_jax.ops.conv`).

Normalisation asks for the mean and the mean square of the convolution. They follow from those of the patches p that
it multiplies, ``E[w'p] = w'E[p]`` and ``E[(w'p)^2] = w'E[pp']w``, which do not depend on the weights.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from mamlpp_jax.ops.blocks import map_blocks, sum_blocks
from mamlpp_jax.ops.conv import geometry_of, product, with_rule
from mamlpp_jax.ops.conv_geometry import Geometry, padded_input, pieces
from mamlpp_jax.ops.pool import choose, put, take
from mamlpp_jax.types import Array
from mamlpp_jax.utils.arithmetic import largest_divisor

# Measured on a CPU with 2 MiB of second-level cache per core (experiments/PERFORMANCE.md): numbers of a block.
_BLOCK_ELEMENTS = 100_000
# With fewer channels than this, a convolution is much larger than its images, and moments of patches are cheap.
_FEW_CHANNELS = 16

_Saved = tuple[Array, Array, Array]


def is_faster(channels: int, impl: str, compute_dtype: str) -> bool:
    """Whether the functions below are faster than computing the convolution, then pooling it and taking its moments.

    They round no factors, and lack the derivatives in every mode that `xla` promises.

    Args:
        channels: C.
        impl: as in `mamlpp_jax.ops.conv.conv2d`.
        compute_dtype: as there.
    """
    return channels < _FEW_CHANNELS and impl != "xla" and not compute_dtype


def conv_moments(x: Array, kernel: Array, *, padding: int = 1) -> tuple[Array, Array]:
    """Mean and biased variance of ``conv2d(x, kernel)``, over images and positions.

    Args:
        x: [N, H, W, C]; the work grows with the square of kh * kw * C.
        kernel: [kh, kw, C, F], of the dtype of x.
        padding: zeros added on every side.

    Returns:
        [F] and [F].
    """
    g = geometry_of(x, kernel, padding=padding)
    # The difference of two large numbers below needs every digit.
    multiply = partial(jnp.matmul, precision=lax.Precision.HIGHEST)

    def sums(x: Array) -> tuple[Array, Array]:
        patches = jnp.concatenate(pieces(padded_input(g, x), g.kernel, g.out, g.strides), axis=-1)
        patches = patches.reshape(-1, patches.shape[-1])
        return patches.sum(0), multiply(patches.T, patches)

    matrix = kernel.reshape(-1, kernel.shape[-1])
    total, products = sum_blocks(sums, _block_size(g, x.shape[0], matrix.shape[0]), x)
    positions = float(x.shape[0] * g.out[0] * g.out[1])
    mean = multiply(total / positions, matrix)
    square = jnp.sum(multiply(products / positions, matrix) * matrix, 0)
    # Rounding can push the difference below zero when the mean is large.
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


def conv_max_pool_2x2(
    x: Array, kernel: Array, sign: Array, *, padding: int = 1, impl: str = "auto"
) -> Array:
    """``max_pool_2x2(conv2d(x, kernel), sign)``.

    Args:
        x: [N, H, W, C].
        kernel: [kh, kw, C, F], of the dtype of x.
        sign: [F] of 1 and -1, as in `mamlpp_jax.ops.pool.max_pool_2x2`; has no gradient.
        padding: zeros added on every side.
        impl: as in `mamlpp_jax.ops.conv.conv2d`, but for `xla`.

    Returns:
        [N, H' // 2, W' // 2, F].
    """
    g = geometry_of(x, kernel, padding=padding, impl=impl)
    return _conv_max_pool(g, x, kernel, lax.stop_gradient(sign))[0]


def _block_size(g: Geometry, images: int, filters: int) -> int:
    """Images in a block; on accelerators all of them, where one block after another would be slow."""
    if g.way != "direct":
        return images
    return largest_divisor(images, _BLOCK_ELEMENTS // (g.out[0] * g.out[1] * filters))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv_max_pool(g: Geometry, x: Array, w: Array, sign: Array) -> tuple[Array, Array]:
    """The largest element of each window, and which one it is."""

    def pool(x: Array) -> tuple[Array, Array]:
        y = product("conv", g, x, w)
        choice = choose(y, sign)
        return take(g.out, y, choice), choice

    return map_blocks(pool, _block_size(g, x.shape[0], w.shape[-1]), x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(g: Geometry, x: Array, w: Array, choice: Array) -> Array:
    def pool(x: Array, choice: Array) -> Array:
        return take(g.out, product("conv", g, x, w), choice)

    return map_blocks(pool, _block_size(g, x.shape[0], w.shape[-1]), x, choice)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(g: Geometry, dp: Array, w: Array, choice: Array) -> Array:
    def gradient(dp: Array, choice: Array) -> Array:
        return product("input_gradient", g, put(g.out, dp, choice), w)

    return map_blocks(gradient, _block_size(g, dp.shape[0], w.shape[-1]), dp, choice)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(g: Geometry, x: Array, dp: Array, choice: Array) -> Array:
    def gradient(x: Array, dp: Array, choice: Array) -> Array:
        return product("kernel_gradient", g, x, put(g.out, dp, choice))

    return sum_blocks(gradient, _block_size(g, x.shape[0], dp.shape[-1]), x, dp, choice)


with_rule(
    _conv,
    lambda g, x, w, dp, choice: _input_gradient(g, dp, w, choice),
    lambda g, x, w, dp, choice: _kernel_gradient(g, x, dp, choice),
)
with_rule(
    _input_gradient,
    lambda g, dp, w, dx, choice: _conv(g, dx, w, choice),
    lambda g, dp, w, dx, choice: _kernel_gradient(g, dx, dp, choice),
)
with_rule(
    _kernel_gradient,
    lambda g, x, dp, dw, choice: _input_gradient(g, dp, dw, choice),
    lambda g, x, dp, dw, choice: _conv(g, x, dw, choice),
)


def _pool_forward(
    g: Geometry, x: Array, w: Array, sign: Array
) -> tuple[tuple[Array, Array], _Saved]:
    pooled, choice = _conv_max_pool(g, x, w, sign)
    return (pooled, choice), (x, w, choice)


def _pool_backward(
    g: Geometry, saved: _Saved, cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None]:
    x, w, choice = saved
    dp = cotangents[0]
    return _input_gradient(g, dp, w, choice), _kernel_gradient(g, x, dp, choice), None


_conv_max_pool.defvjp(_pool_forward, _pool_backward)
