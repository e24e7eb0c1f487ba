"""Convolution that stays fast under ``vmap`` over kernels and in every derivative.

``vmap`` over `lax.conv_general_dilated` with one kernel per task becomes a grouped convolution, which the
CPU back end runs very slowly, as it does its higher derivatives; a GPU that was measured does not, and takes twice the
memory of `grouped` (experiments/PERFORMANCE.md). Here a convolution is seen as the trilinear form
``<conv(x, w), dy>``, whose three partial gradients

    conv(x, w) -> y        input_gradient(dy, w) -> dx        kernel_gradient(x, dy) -> dw

are closed under differentiation: the derivative of each is made of the other two. Declared as custom
VJPs they keep gradients of any order in this family and save only x, w and dy for the backward pass.
The three are computed in one of several ways, which differ in speed and memory alone:

    patches   gather the patches, multiply by the kernel: a batched matrix product when kernels are batched
    direct    the back end's own convolution, in the one layout it is fast in; for one task at a time
    grouped   the back end's own convolution, with a group per task

Custom VJPs exclude forward-mode differentiation (`jvp`, `jacfwd`); use `conv="xla"` for that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mamlpp_jax.ops.conv_backend import DIRECT, GROUPED, convolve
from mamlpp_jax.ops.conv_geometry import Geometry, Way
from mamlpp_jax.ops.conv_products import PATCHES
from mamlpp_jax.types import Array

_WAYS: dict[str, Way] = {"patches": PATCHES, "direct": DIRECT, "grouped": GROUPED}
IMPL_NAMES = ("auto", "xla", *_WAYS)


def conv2d(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: int = 1,
    impl: str = "auto",
    compute_dtype: str = "",
) -> Array:
    """Cross-correlates a batch of images with a kernel.

    Args:
        x: [N, H, W, C].
        kernel: [kh, kw, C, F], of the dtype of x.
        stride: 1 or more, the same in both directions.
        padding: zeros added on every side.
        impl: `xla` (`lax.conv_general_dilated`, differentiable in every mode), one of the ways above (`direct`
            gathers patches where kernels are batched), or `auto`: direct for float32 on a CPU, else patches.
        compute_dtype: "bfloat16" rounds the factors of every product, here and in the gradients; sums and
            results keep the dtype of x. "" rounds nothing.

    Returns:
        [N, H', W', F].

    Raises:
        ValueError: the impl is unknown.
    """
    if impl == "xla":
        pads = [(padding, padding)] * 2
        x, kernel = (_round(a, compute_dtype) for a in (x, kernel))
        return convolve(x, kernel, window_strides=(stride, stride), padding=pads)
    g = geometry_of(
        x, kernel, stride=stride, padding=padding, impl=impl, compute_dtype=compute_dtype
    )
    return _conv(g, x, kernel)


def geometry_of(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: int = 1,
    impl: str = "auto",
    compute_dtype: str = "",
) -> Geometry:
    """The static part of a convolution; arguments and errors as in `conv2d`."""
    if impl not in IMPL_NAMES:
        raise ValueError(f"conv impl {impl!r} is unknown; choose one of {', '.join(IMPL_NAMES)}")
    if impl == "auto":
        # The CPU back end has no fast convolution of other types.
        fast = jax.default_backend() == "cpu" and x.dtype == jnp.float32 and not compute_dtype
        impl = "direct" if fast else "patches"
    size, window = (x.shape[1], x.shape[2]), (kernel.shape[0], kernel.shape[1])
    return Geometry(size, window, stride, padding, impl, compute_dtype)


def _round(x: Array, dtype: str) -> Array:
    """Rounds to a narrower dtype, through which gradients pass unrounded; "" does nothing."""
    return x if not dtype else x + lax.stop_gradient(x.astype(dtype).astype(x.dtype) - x)


def product(name: str, g: Geometry, a: Array, b: Array) -> Array:
    """Computes one of the three functions, in the way that was chosen."""
    if g.compute_dtype:
        a, b = a.astype(g.compute_dtype), b.astype(g.compute_dtype)
    result: Array = getattr(_WAYS[g.way], name)(g, a, b)
    return result


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(g: Geometry, x: Array, w: Array) -> Array:
    return product("conv", g, x, w)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(g: Geometry, dy: Array, w: Array) -> Array:
    return product("input_gradient", g, dy, w)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(g: Geometry, x: Array, dy: Array) -> Array:
    return product("kernel_gradient", g, x, dy)


def with_rule(
    function: Callable[..., Array],
    first: Callable[..., Array],
    second: Callable[..., Array],
) -> None:
    """Declares the partial gradients of a function that is bilinear in two arrays.

    Args:
        function: (geometry, a, b, *fixed) -> result, a `jax.custom_vjp`; what is fixed has no gradient.
        first: (geometry, a, b, cotangent, *fixed) -> that of a.
        second: the same for b.
    """

    def forward(g: Geometry, a: Array, b: Array, *fixed: Array) -> tuple[Array, Any]:
        return function(g, a, b, *fixed), (a, b, fixed)

    def backward(g: Geometry, saved: Any, c: Array) -> tuple[Array | None, ...]:
        a, b, fixed = saved
        return first(g, a, b, c, *fixed), second(g, a, b, c, *fixed), *(None for _ in fixed)

    function.defvjp(forward, backward)  # type: ignore[attr-defined]


with_rule(
    _conv,
    lambda g, x, w, dy: _input_gradient(g, dy, w),
    lambda g, x, w, dy: _kernel_gradient(g, x, dy),
)
with_rule(
    _input_gradient,
    lambda g, dy, w, dx: _conv(g, dx, w),
    lambda g, dy, w, dx: _kernel_gradient(g, dx, dy),
)
with_rule(
    _kernel_gradient,
    lambda g, x, dy, dw: _input_gradient(g, dy, dw),
    lambda g, x, dy, dw: _conv(g, x, dw),
)
