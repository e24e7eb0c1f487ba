"""Convolutions as plain matrix products, which `vmap` over kernels turns into batched ones.

PATCHES   one product over the gathered patches, which are as large as kh * kw copies of the input
"""

from __future__ import annotations

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
