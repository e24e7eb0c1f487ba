"""A convolution of images with few channels, max-pooled without being whole in memory, and its moments.

With one channel and 64 filters, the convolution is 64 times as large as the images and four times as large as the
result of pooling. Here one block of it exists at a time, forward and backward: the cotangent of a block is put
together from the choices of pooling. With a fixed choice c, ``<take(conv(x, w), c), dp>`` is a trilinear form,
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
from mamlpp_jax.ops.conv import compute, define_vjps, make_spec
from mamlpp_jax.ops.conv_spec import ConvSpec, gather_patches, padded_input
from mamlpp_jax.ops.pool import choose, put, take
from mamlpp_jax.types import Array
from mamlpp_jax.utils.arithmetic import largest_divisor

# Measured on a CPU with 2 MiB of second-level cache per core (docs/results/performance.md): numbers of a block.
_BLOCK_ELEMENTS = 100_000
# With fewer channels than this, a convolution is much larger than its images, and moments of patches are cheap.
_FEW_CHANNELS = 16

_Saved = tuple[Array, Array, Array]


def is_faster(channels: int, impl: str, compute_dtype: str) -> bool:
    """Checks whether these functions are faster for C channels than pooling a whole convolution and taking its moments.

    They do not round factors, and do not have the derivatives in every mode that `xla` promises, so that they replace
    neither.
    """
    return channels < _FEW_CHANNELS and impl != "xla" and not compute_dtype


def conv_moments(x: Array, kernel: Array, *, padding: int = 1) -> tuple[Array, Array]:
    """Mean and biased variance of ``conv2d(x, kernel)``, over images [N, H, W, C] and positions: [F] and [F].

    The work grows with the square of kh * kw * C.
    """
    spec = make_spec(x, kernel, padding=padding)
    # The difference of two large numbers below needs every digit.
    multiply = partial(jnp.matmul, precision=lax.Precision.HIGHEST)

    def sums(x: Array) -> tuple[Array, Array]:
        patches = gather_patches(padded_input(spec, x), spec.kernel, spec.out, spec.strides)
        patches = patches.reshape(-1, patches.shape[-1])
        return patches.sum(0), multiply(patches.T, patches)

    matrix = kernel.reshape(-1, kernel.shape[-1])
    total, products = sum_blocks(sums, _block_size(spec, x.shape[0], matrix.shape[0]), x)
    positions = float(x.shape[0] * spec.out[0] * spec.out[1])
    mean = multiply(total / positions, matrix)
    square = jnp.sum(multiply(products / positions, matrix) * matrix, 0)
    # Rounding can push the difference below zero when the mean is large.
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


def conv_max_pool_2x2(
    x: Array, kernel: Array, sign: Array, *, padding: int = 1, impl: str = "auto"
) -> Array:
    """``max_pool_2x2(conv2d(x, kernel), sign)``, [N, H' // 2, W' // 2, F]; `sign` has no gradient.

    `impl` is one of `mamlpp_jax.ops.conv.conv2d`, but for `xla`.
    """
    spec = make_spec(x, kernel, padding=padding, impl=impl)
    return _conv_max_pool(spec, x, kernel, lax.stop_gradient(sign))[0]


def _block_size(spec: ConvSpec, images: int, filters: int) -> int:
    """Images in a block: all of them where one block after another would be slow, as on accelerators."""
    if not spec.impl.in_cache:
        return images
    return largest_divisor(images, _BLOCK_ELEMENTS // (spec.out[0] * spec.out[1] * filters))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv_max_pool(spec: ConvSpec, x: Array, w: Array, sign: Array) -> tuple[Array, Array]:
    """The largest element of each window, and which one it is."""

    def pool(x: Array) -> tuple[Array, Array]:
        y = compute("conv", spec, x, w)
        choice = choose(y, sign)
        return take(spec.out, y, choice), choice

    return map_blocks(pool, _block_size(spec, x.shape[0], w.shape[-1]), x)


# The three partial gradients for a fixed choice.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(spec: ConvSpec, x: Array, w: Array, choice: Array) -> Array:
    def pool(x: Array, choice: Array) -> Array:
        return take(spec.out, compute("conv", spec, x, w), choice)

    return map_blocks(pool, _block_size(spec, x.shape[0], w.shape[-1]), x, choice)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(spec: ConvSpec, dp: Array, w: Array, choice: Array) -> Array:
    def gradient(dp: Array, choice: Array) -> Array:
        return compute("input_gradient", spec, put(spec.out, dp, choice), w)

    return map_blocks(gradient, _block_size(spec, dp.shape[0], w.shape[-1]), dp, choice)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(spec: ConvSpec, x: Array, dp: Array, choice: Array) -> Array:
    def gradient(x: Array, dp: Array, choice: Array) -> Array:
        return compute("kernel_gradient", spec, x, put(spec.out, dp, choice))

    return sum_blocks(gradient, _block_size(spec, x.shape[0], dp.shape[-1]), x, dp, choice)


define_vjps(_conv, _input_gradient, _kernel_gradient)


def _pool_forward(
    spec: ConvSpec, x: Array, w: Array, sign: Array
) -> tuple[tuple[Array, Array], _Saved]:
    pooled, choice = _conv_max_pool(spec, x, w, sign)
    return (pooled, choice), (x, w, choice)


def _pool_backward(
    spec: ConvSpec, saved: _Saved, cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None]:
    x, w, choice = saved
    dp = cotangents[0]
    return _input_gradient(spec, dp, w, choice), _kernel_gradient(spec, x, dp, choice), None


_conv_max_pool.defvjp(_pool_forward, _pool_backward)
