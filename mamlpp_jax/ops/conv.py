"""Convolution that stays a matrix product under ``vmap`` over kernels and in every derivative.

``vmap`` over `lax.conv_general_dilated` with one kernel per task becomes a grouped convolution, which
CPU and GPU back ends run very slowly. Here a convolution is "gather the patches, multiply by the
kernel". Seen as the trilinear form ``<conv(x, w), dy>``, its three partial gradients

    conv(x, w) -> y        input_gradient(dy, w) -> dx        kernel_gradient(x, dy) -> dw

are closed under differentiation: the derivative of each is made of the other two. Declared as custom
VJPs they keep gradients of any order as matrix products and save ``x`` for the backward pass, not its
nine times larger patches.

Custom VJPs exclude forward-mode differentiation (`jvp`, `jacfwd`); use `conv="xla"` for that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mamlpp_jax.types import Array

KINDS = ("auto", "xla", "patches")


class Geometry(NamedTuple):
    """The static part of a convolution.

    Attributes:
        size: (height, width) of the input.
        kernel: (height, width) of the kernel.
        stride: the same in both directions.
        padding: zeros added on every side of the input.
    """

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    padding: int

    @property
    def out(self) -> tuple[int, int]:
        """(height, width) of the output."""
        high, wide = (
            (n + 2 * self.padding - k) // self.stride + 1
            for n, k in zip(self.size, self.kernel, strict=True)
        )
        return high, wide


def conv2d(
    x: Array, kernel: Array, *, stride: int = 1, padding: int = 1, kind: str = "auto"
) -> Array:
    """Cross-correlates a batch of images with a kernel.

    Args:
        x: [N, H, W, C].
        kernel: [kh, kw, C, F].
        stride: 1 or more, the same in both directions.
        padding: zeros added on every side.
        kind: `xla` (`lax.conv_general_dilated`), `patches` (this module) or `auto`, which
            picks `patches`: it was faster for every size of the paper.

    Returns:
        [N, H', W', F].

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"conv kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if kind == "xla":
        pads = [(padding, padding)] * 2
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    size, window = (x.shape[1], x.shape[2]), (kernel.shape[0], kernel.shape[1])
    geometry = Geometry(size, window, stride, padding)
    return _conv(geometry, x, kernel)


def _pad(x: Array, low: tuple[int, int], high: tuple[int, int], interior: int = 0) -> Array:
    config = [(0, 0, 0), (low[0], high[0], interior), (low[1], high[1], interior), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _patches(x: Array, kernel: tuple[int, int], out: tuple[int, int], stride: int) -> Array:
    """Padded images [N, H, W, C] -> [N, H', W', kh*kw*C], ordered as a kernel's first three axes."""
    batch, _, _, channels = x.shape
    pieces = [
        lax.slice(
            x,
            (0, row, column, 0),
            (
                batch,
                row + stride * (out[0] - 1) + 1,
                column + stride * (out[1] - 1) + 1,
                channels,
            ),
            (1, stride, stride, 1),
        )
        for row in range(kernel[0])
        for column in range(kernel[1])
    ]
    return jnp.concatenate(pieces, axis=-1)


def _multiply(patches: Array, kernel: Array) -> Array:
    return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(g: Geometry, x: Array, w: Array) -> Array:
    pad = (g.padding, g.padding)
    return _multiply(_patches(_pad(x, pad, pad), g.kernel, g.out, g.stride), w)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(g: Geometry, dy: Array, w: Array) -> Array:
    # A stride-1 correlation of the (dilated) dy with the mirrored kernel. The padding may be negative
    # (it crops), and the high side also covers input rows that no window reached.
    low = (g.kernel[0] - 1 - g.padding, g.kernel[1] - 1 - g.padding)
    high = (
        g.size[0] + g.padding - 1 - g.stride * (g.out[0] - 1),
        g.size[1] + g.padding - 1 - g.stride * (g.out[1] - 1),
    )
    mirrored = jnp.flip(w, (0, 1)).swapaxes(2, 3)
    return _multiply(_patches(_pad(dy, low, high, g.stride - 1), g.kernel, g.size, 1), mirrored)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(g: Geometry, x: Array, dy: Array) -> Array:
    pad = (g.padding, g.padding)
    patches = _patches(_pad(x, pad, pad), g.kernel, g.out, g.stride)
    product = lax.dot_general(patches, dy, (((0, 1, 2), (0, 1, 2)), ((), ())))
    return product.reshape(*g.kernel, x.shape[-1], dy.shape[-1])


def _with_rule(
    function: Callable[..., Array],
    first: Callable[..., Array],
    second: Callable[..., Array],
) -> None:
    """Declares the two partial gradients of a bilinear function of (a, b), given its cotangent."""

    def forward(g: Geometry, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
        return function(g, a, b), (a, b)

    def backward(g: Geometry, saved: tuple[Array, Array], c: Array) -> tuple[Array, Array]:
        a, b = saved
        return first(g, a, b, c), second(g, a, b, c)

    function.defvjp(forward, backward)  # type: ignore[attr-defined]


_with_rule(
    _conv,
    lambda g, x, w, dy: _input_gradient(g, dy, w),
    lambda g, x, w, dy: _kernel_gradient(g, x, dy),
)
_with_rule(
    _input_gradient,
    lambda g, dy, w, dx: _conv(g, dx, w),
    lambda g, dy, w, dx: _kernel_gradient(g, dx, dy),
)
_with_rule(
    _kernel_gradient,
    lambda g, x, dy, dw: _input_gradient(g, dy, dw),
    lambda g, x, dy, dw: _conv(g, x, dw),
)
