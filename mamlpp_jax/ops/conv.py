"""Convolution that stays a dense product under ``vmap`` over kernels and in every derivative.

``vmap`` over `lax.conv_general_dilated` with one kernel per task becomes a grouped convolution, which
CPU and GPU back ends run very slowly, and so do its higher derivatives. Here a convolution is seen as
the trilinear form ``<conv(x, w), dy>``, whose three partial gradients

    conv(x, w) -> y        input_gradient(dy, w) -> dx        kernel_gradient(x, dy) -> dw

are closed under differentiation: the derivative of each is made of the other two. Declared as custom
VJPs they keep gradients of any order in this family and save only x, w and dy for the backward pass.
Each of the three is computed in one of two ways:

    patches   gather the patches, multiply by the kernel: a batched matrix product when kernels are batched
    direct    the back end's own convolution, in the one layout it is fast in; for one task at a time

Custom VJPs exclude forward-mode differentiation (`jvp`, `jacfwd`); use `conv="xla"` for that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from mamlpp_jax.types import Array
from mamlpp_jax.utils.arithmetic import largest_divisor

# Measured on a CPU with 1 MiB of second-level cache per core (experiments/PERFORMANCE.md).
_FEW_POSITIONS = 4096
_FEW_CHANNELS = 16
_BLOCK_ELEMENTS = 2_000_000

KINDS = ("auto", "xla", "patches", "direct")


class Geometry(NamedTuple):
    """The static part of a convolution.

    Attributes:
        size: (height, width) of the input.
        kernel: (height, width) of the kernel.
        stride: the same in both directions.
        padding: zeros added on every side of the input.
        direct: the back end's own convolution wherever kernels are not batched.
        compute_dtype: dtype that the factors of every product are rounded to; "" for their own.
    """

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    padding: int
    direct: bool = False
    compute_dtype: str = ""

    @property
    def out(self) -> tuple[int, int]:
        """(height, width) of the output."""
        high, wide = (
            (n + 2 * self.padding - k) // self.stride + 1
            for n, k in zip(self.size, self.kernel, strict=True)
        )
        return high, wide


def conv2d(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: int = 1,
    kind: str = "auto",
    compute_dtype: str = "",
) -> Array:
    """Cross-correlates a batch of images with a kernel.

    Args:
        x: [N, H, W, C].
        kernel: [kh, kw, C, F], of the dtype of x.
        stride: 1 or more, the same in both directions.
        padding: zeros added on every side.
        kind: `xla` (`lax.conv_general_dilated`, differentiable in every mode), `patches`, `direct`
            (direct unless kernels are batched), or `auto`: direct for float32 on a CPU, else patches.
        compute_dtype: "bfloat16" rounds the factors of every product, here and in the gradients; sums and
            results keep the dtype of x. "" rounds nothing.

    Returns:
        [N, H', W', F].

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"conv kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if kind == "xla":
        pads = [(padding, padding)] * 2
        x, kernel = (_round(a, compute_dtype) for a in (x, kernel))
        return _convolve(x, kernel, window_strides=(stride, stride), padding=pads)
    size, window = (x.shape[1], x.shape[2]), (kernel.shape[0], kernel.shape[1])
    # The CPU back end has no fast convolution of other types.
    fast = jax.default_backend() == "cpu" and x.dtype == jnp.float32 and not compute_dtype
    direct = kind == "direct" or (kind == "auto" and fast)
    geometry = Geometry(size, window, stride, padding, direct, compute_dtype)
    return _conv(geometry, x, kernel)


def _pad(x: Array, low: tuple[int, int], high: tuple[int, int], interior: int = 0) -> Array:
    config = [(0, 0, 0), (low[0], high[0], interior), (low[1], high[1], interior), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _pieces(x: Array, kernel: tuple[int, int], out: tuple[int, int], stride: int) -> list[Array]:
    """What each element of the kernel meets in the padded images, row by row: [N, H', W', C]."""
    batch, _, _, channels = x.shape
    high, wide = (stride * (n - 1) + 1 for n in out)
    return [
        lax.slice(
            x,
            (0, row, column, 0),
            (batch, row + high, column + wide, channels),
            (1, stride, stride, 1),
        )
        for row in range(kernel[0])
        for column in range(kernel[1])
    ]


def _patches(x: Array, kernel: tuple[int, int], out: tuple[int, int], stride: int) -> Array:
    """Padded images [N, H, W, C] -> [N, H', W', kh*kw*C], ordered as a kernel's first three axes."""
    return jnp.concatenate(_pieces(x, kernel, out, stride), axis=-1)


def _multiply(patches: Array, kernel: Array) -> Array:
    """[N, H', W', kh*kw*C] times [kh, kw, C, F], over the patches: [N, H', W', F]."""
    return _dot(patches, kernel.reshape(-1, kernel.shape[-1]), (3,), (0,))


def _sum_products(a: Array, b: Array) -> Array:
    """[N, H', W', A] and [N, H', W', B] -> [A, B], summed over all positions."""
    return _dot(a, b, (0, 1, 2), (0, 1, 2))


def _dot(a: Array, b: Array, axes_a: tuple[int, ...], axes_b: tuple[int, ...]) -> Array:
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, ((axes_a, axes_b), ((), ())), preferred_element_type=wide)


def _round(x: Array, dtype: str) -> Array:
    """Rounds to a narrower dtype, through which gradients pass unrounded; "" does nothing."""
    return x if not dtype else x + lax.stop_gradient(x.astype(dtype).astype(x.dtype) - x)


def _where_unbatched(
    g: Geometry, direct: Callable[..., Array], patches: Callable[..., Array], a: Array, b: Array
) -> Array:
    """Calls `direct`, but `patches` under a `vmap` that batches both operands (or when not asked)."""
    if g.compute_dtype:
        a, b = a.astype(g.compute_dtype), b.astype(g.compute_dtype)
    if not g.direct:
        return patches(g, a, b)
    function = custom_vmap(partial(direct, g))

    @function.def_vmap
    def rule(axis_size: int, batched: list[bool], a: Array, b: Array) -> tuple[Array, bool]:
        del axis_size
        axes = tuple(0 if is_batched else None for is_batched in batched)
        return jax.vmap(partial(patches, g), axes)(a, b), True

    return function(a, b)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(g: Geometry, x: Array, w: Array) -> Array:
    return _where_unbatched(g, _conv_direct, _conv_patches, x, w)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(g: Geometry, dy: Array, w: Array) -> Array:
    return _where_unbatched(g, _input_gradient_direct, _input_gradient_patches, dy, w)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(g: Geometry, x: Array, dy: Array) -> Array:
    return _where_unbatched(g, _kernel_gradient_direct, _kernel_gradient_patches, x, dy)


def _conv_patches(g: Geometry, x: Array, w: Array) -> Array:
    pad = (g.padding, g.padding)
    return _multiply(_patches(_pad(x, pad, pad), g.kernel, g.out, g.stride), w)


def _backward_padding(g: Geometry) -> tuple[tuple[int, int], tuple[int, int]]:
    """(low, high) padding of dy per axis: negative crops, and high covers rows no window reached."""
    low, high = (
        (
            g.kernel[axis] - 1 - g.padding,
            g.size[axis] + g.padding - 1 - g.stride * (g.out[axis] - 1),
        )
        for axis in (0, 1)
    )
    return low, high


def _mirrored(w: Array) -> Array:
    return jnp.flip(w, (0, 1)).swapaxes(2, 3)


def _input_gradient_patches(g: Geometry, dy: Array, w: Array) -> Array:
    # A stride-1 correlation of the (dilated) dy with the mirrored kernel.
    rows, columns = _backward_padding(g)
    padded = _pad(dy, (rows[0], columns[0]), (rows[1], columns[1]), g.stride - 1)
    return _multiply(_patches(padded, g.kernel, g.size, 1), _mirrored(w))


def _kernel_gradient_patches(g: Geometry, x: Array, dy: Array) -> Array:
    pad = (g.padding, g.padding)
    patches = _patches(_pad(x, pad, pad), g.kernel, g.out, g.stride)
    product = _sum_products(patches, dy)
    return product.reshape(*g.kernel, x.shape[-1], dy.shape[-1])


def _convolve(x: Array, w: Array, **options: Any) -> Array:
    """`lax.conv_general_dilated` in the one layout that the CPU back end has a fast path for."""
    return lax.conv_general_dilated(
        x,
        w,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
        **options,
    )


def _conv_direct(g: Geometry, x: Array, w: Array) -> Array:
    padding = [(g.padding, g.padding)] * 2
    return _convolve(x, w, window_strides=(g.stride, g.stride), padding=padding)


def _input_gradient_direct(g: Geometry, dy: Array, w: Array) -> Array:
    return _convolve(
        dy,
        _mirrored(w),
        window_strides=(1, 1),
        padding=_backward_padding(g),
        lhs_dilation=(g.stride, g.stride),
    )


def _kernel_gradient_direct(g: Geometry, x: Array, dy: Array) -> Array:
    """Three forms, each the fastest of its sizes; large ones block by block, to stay in cache."""
    batch, channels = x.shape[0], x.shape[-1]
    positions = g.out[0] * g.out[1]
    if batch * positions <= _FEW_POSITIONS:
        return _kernel_gradient_sliding(g, x, dy)
    form = _kernel_gradient_sliding if channels < _FEW_CHANNELS else _kernel_gradient_taps
    per_image = x[0].size + dy[0].size
    images = largest_divisor(batch, _BLOCK_ELEMENTS // per_image)
    if images == batch:
        return form(g, x, dy)
    blocks = [a.reshape(-1, images, *a.shape[1:]) for a in (x, dy)]
    return lax.map(lambda block: form(g, *block), tuple(blocks)).sum(0)


def _kernel_gradient_sliding(g: Geometry, x: Array, dy: Array) -> Array:
    # Channels as the batch, the batch as channels: x slides over dy, once per element of the kernel.
    # The transposes are spelled out because other dimension numbers miss the fast path in a loop.
    padding = [
        (g.padding, g.stride * (g.out[axis] - 1) + g.kernel[axis] - g.size[axis] - g.padding)
        for axis in (0, 1)
    ]
    product = _convolve(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        window_strides=(1, 1),
        padding=padding,
        rhs_dilation=(g.stride, g.stride),
    )
    return product.transpose(1, 2, 0, 3)


def _kernel_gradient_taps(g: Geometry, x: Array, dy: Array) -> Array:
    # One matrix product per element of the kernel. With dy on the left, the transpose that a product
    # over the rows of both sides needs is made once, of dy, and not of every piece.
    pad = (g.padding, g.padding)
    taps = [
        _sum_products(dy, piece) for piece in _pieces(_pad(x, pad, pad), g.kernel, g.out, g.stride)
    ]
    return jnp.stack(taps).swapaxes(1, 2).reshape(*g.kernel, x.shape[-1], dy.shape[-1])


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
