"""The static description of a convolution, and the padding, views and products that its implementations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from mamlpp_jax.types import Array


class ConvSpec(NamedTuple):
    """The static description of a convolution."""

    size: tuple[int, int]  # (height, width) of the input
    kernel: tuple[int, int]  # (height, width) of the kernel
    stride: int  # the same in both directions
    padding: int  # zeros added on every side of the input
    impl: ConvImpl  # its implementation
    compute_dtype: str  # dtype that the factors of every product are rounded to; "" for their own

    @property
    def strides(self) -> tuple[int, int]:
        """Vertical and horizontal."""
        return self.stride, self.stride

    @property
    def out(self) -> tuple[int, int]:
        """(height, width) of the output."""
        high, wide = (
            (n + 2 * self.padding - k) // self.stride + 1
            for n, k in zip(self.size, self.kernel, strict=True)
        )
        return high, wide

    @property
    def backward_padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(low, high) padding of dy per axis: negative crops, and high covers rows no window reached."""
        rows, columns = (
            (
                self.kernel[axis] - 1 - self.padding,
                self.size[axis] + self.padding - 1 - self.stride * (self.out[axis] - 1),
            )
            for axis in (0, 1)
        )
        return rows, columns


class ConvImpl(NamedTuple):
    """One implementation of the three convolution primitives; `ops.conv` defines their derivatives."""

    conv: Callable[[ConvSpec, Array, Array], Array]  # (spec, x, w) -> y
    input_gradient: Callable[[ConvSpec, Array, Array], Array]  # (spec, dy, w) -> dx
    kernel_gradient: Callable[[ConvSpec, Array, Array], Array]  # (spec, x, dy) -> dw
    in_cache: bool = False  # work on images is faster in blocks that fit the cache of a CPU


def padded_input(spec: ConvSpec, x: Array) -> Array:
    """Images with the zeros around them."""
    return _pad(x, ((spec.padding, spec.padding),) * 2)


def padded_cotangent(spec: ConvSpec, dy: Array) -> Array:
    """A dy that, correlated at stride 1 with the mirrored kernel, gives dx: dilated by the stride and padded."""
    return _pad(dy, spec.backward_padding, spec.stride - 1)


def _pad(x: Array, padding: tuple[tuple[int, int], tuple[int, int]], interior: int = 0) -> Array:
    """Pads [N, H, W, C] by (low, high) rows and columns; negative crops."""
    config = [(0, 0, 0), *((*axis, interior) for axis in padding), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def mirrored(w: Array) -> Array:
    """[kh, kw, C, F] -> [kh, kw, F, C], mirrored in both directions."""
    return jnp.flip(w, (0, 1)).swapaxes(2, 3)


def shifted_views(
    x: Array, kernel: tuple[int, int], out: tuple[int, int], strides: tuple[int, int]
) -> list[Array]:
    """The padded images as each element of the kernel sees them, row by row: [N, H', W', C]."""
    batch, _, _, channels = x.shape
    high, wide = (stride * (n - 1) + 1 for stride, n in zip(strides, out, strict=True))
    return [
        lax.slice(
            x,
            (0, row, column, 0),
            (batch, row + high, column + wide, channels),
            (1, *strides, 1),
        )
        for row in range(kernel[0])
        for column in range(kernel[1])
    ]


def gather_patches(
    x: Array, kernel: tuple[int, int], out: tuple[int, int], strides: tuple[int, int]
) -> Array:
    """Padded images -> [N, H', W', kh * kw * C], ordered as a kernel's first three axes."""
    return jnp.concatenate(shifted_views(x, kernel, out, strides), axis=-1)


def multiply(x: Array, matrix: Array) -> Array:
    """[N, H', W', A] times [A, F]: [N, H', W', F]."""
    return _dot(x, matrix, (3,), (0,))


def sum_products(a: Array, b: Array) -> Array:
    """[N, H', W', A] and [N, H', W', B] -> [A, B], summed over all positions."""
    return _dot(a, b, (0, 1, 2), (0, 1, 2))


def _dot(a: Array, b: Array, axes_a: tuple[int, ...], axes_b: tuple[int, ...]) -> Array:
    return lax.dot_general(a, b, ((axes_a, axes_b), ((), ())), preferred_element_type=sum_dtype(a))


def sum_dtype(x: Array) -> jnp.dtype:
    """The dtype that products of such factors are summed in: float32, or float64 for float64."""
    return jnp.promote_types(x.dtype, jnp.float32)
