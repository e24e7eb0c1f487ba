"""Convolutions as plain matrix products, which `vmap` over kernels turns into batched ones.

PATCHES   one product over the gathered patches, which are as large as kh * kw copies of the input
SHIFTED   a product per element of the kernel over the shifted input, added up: kh * kw products of a
          kh * kw-th of the work, and one copy of the input at a time
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable

import jax.numpy as jnp

from mamlpp_jax.ops.conv_geometry import (
    Geometry,
    Way,
    mirrored,
    multiply,
    padded_cotangent,
    padded_input,
    pieces,
    sum_products,
)
from mamlpp_jax.types import Array

# Products over fewer channels are too thin; the patches of so few are small.
_FEW_CHANNELS = 16


def _patches(
    x: Array, kernel: tuple[int, int], out: tuple[int, int], strides: tuple[int, int]
) -> Array:
    """Padded images [N, H, W, C] -> [N, H', W', kh*kw*C], ordered as a kernel's first three axes."""
    return jnp.concatenate(pieces(x, kernel, out, strides), axis=-1)


def _matrix(w: Array) -> Array:
    return w.reshape(-1, w.shape[-1])


def _conv_patches(g: Geometry, x: Array, w: Array) -> Array:
    return multiply(_patches(padded_input(g, x), g.kernel, g.out, g.strides), _matrix(w))


def _input_gradient_patches(g: Geometry, dy: Array, w: Array) -> Array:
    return multiply(
        _patches(padded_cotangent(g, dy), g.kernel, g.size, (1, 1)), _matrix(mirrored(w))
    )


def _kernel_gradient_patches(g: Geometry, x: Array, dy: Array) -> Array:
    product = sum_products(_patches(padded_input(g, x), g.kernel, g.out, g.strides), dy)
    return product.reshape(*g.kernel, x.shape[-1], dy.shape[-1])


PATCHES = Way(_conv_patches, _input_gradient_patches, _kernel_gradient_patches)


def _conv_shifted(g: Geometry, x: Array, w: Array) -> Array:
    if x.shape[-1] < _FEW_CHANNELS:
        return _conv_patches(g, x, w)
    shifted = pieces(padded_input(g, x), g.kernel, g.out, g.strides)
    return _sum(multiply(x, tap) for x, tap in zip(shifted, _taps(w), strict=True))


def _input_gradient_shifted(g: Geometry, dy: Array, w: Array) -> Array:
    if dy.shape[-1] < _FEW_CHANNELS:
        return _input_gradient_patches(g, dy, w)
    shifted = pieces(padded_cotangent(g, dy), g.kernel, g.size, (1, 1))
    return _sum(multiply(dy, tap) for dy, tap in zip(shifted, _taps(mirrored(w)), strict=True))


def _kernel_gradient_shifted(g: Geometry, x: Array, dy: Array) -> Array:
    if x.shape[-1] < _FEW_CHANNELS:
        return _kernel_gradient_patches(g, x, dy)
    shifted = pieces(padded_input(g, x), g.kernel, g.out, g.strides)
    # With dy on the left, what a product over the rows of both sides needs transposed is the same for all.
    taps = [sum_products(dy, piece) for piece in shifted]
    return jnp.stack(taps).swapaxes(1, 2).reshape(*g.kernel, x.shape[-1], dy.shape[-1])


SHIFTED = Way(_conv_shifted, _input_gradient_shifted, _kernel_gradient_shifted)


def kernel_gradient_by_columns(g: Geometry, x: Array, dy: Array) -> Array:
    """The kernel gradient [kh, kw, C, F] as one matrix product for each row of the kernel.

    What the columns of the kernel meet in the images lies side by side, [N, H + 2 padding, W', kw * C]. A product
    over positions needs its left side transposed: dy is the narrower of the two.
    """
    (high, wide), (rows, columns) = g.out, g.kernel
    padded = padded_input(g, x)
    side_by_side = pieces(padded, (1, columns), (padded.shape[1], wide), (1, g.stride))
    strips = pieces(jnp.concatenate(side_by_side, axis=-1), (rows, 1), (high, wide), (g.stride, 1))
    products = jnp.stack([sum_products(dy, strip) for strip in strips])
    by_channel = products.reshape(rows, dy.shape[-1], columns, x.shape[-1])
    return by_channel.transpose(0, 2, 3, 1)


def _taps(w: Array) -> list[Array]:
    """The [C, F] matrix of each element of the kernel, row by row."""
    return [w[row, column] for row in range(w.shape[0]) for column in range(w.shape[1])]


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)
