"""Convolution that stays fast under ``vmap`` over kernels and in every derivative.

``vmap`` over `lax.conv_general_dilated` with one kernel per task becomes a grouped convolution, which the
CPU back end runs very slowly, as it does its higher derivatives; a GPU that was measured does not, and takes twice the
memory of `grouped` (docs/results/performance.md). Here a convolution is seen as the trilinear form
``<conv(x, w), dy>``, whose three partial gradients

    conv(x, w) -> y        input_gradient(dy, w) -> dx        kernel_gradient(x, dy) -> dw

are closed under differentiation: the derivative of each is made of the other two. Declared as custom
VJPs they keep gradients of any order in this family and save only x, w and dy for the backward pass.
These primitives have several implementations (`ops.conv_impls`), which differ in speed and memory alone:

    patches   gathers the patches and multiplies by the kernel: a batched matrix product when kernels are batched
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

from mamlpp_jax.ops.conv_impls import IMPLS, convolve
from mamlpp_jax.ops.conv_spec import ConvSpec
from mamlpp_jax.types import Array

IMPL_NAMES = ("auto", "xla", *IMPLS)


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
        impl: `xla` (`lax.conv_general_dilated`, differentiable in every mode), one of the implementations above
            (`direct` gathers patches where kernels are batched), or `auto`: direct for float32 on a CPU, else patches.
        compute_dtype: "bfloat16" rounds the factors of every product, here and in the gradients; sums and
            results keep the dtype of x. "" rounds nothing.

    Returns:
        [N, H', W', F].

    Raises:
        ValueError: there is no such implementation.
    """
    if impl == "xla":
        pads = [(padding, padding)] * 2
        x, kernel = (_round(a, compute_dtype) for a in (x, kernel))
        return convolve(x, kernel, window_strides=(stride, stride), padding=pads)
    spec = make_spec(
        x, kernel, stride=stride, padding=padding, impl=impl, compute_dtype=compute_dtype
    )
    return _conv(spec, x, kernel)


def make_spec(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: int = 1,
    impl: str = "auto",
    compute_dtype: str = "",
) -> ConvSpec:
    """The static description of a convolution; arguments and errors as in `conv2d`, but for `xla`."""
    if impl == "auto":
        # The CPU back end has no fast convolution of other types.
        fast = jax.default_backend() == "cpu" and x.dtype == jnp.float32 and not compute_dtype
        impl = "direct" if fast else "patches"
    if impl not in IMPLS:
        raise ValueError(f"convolution {impl!r} is unknown; choose one of {', '.join(IMPL_NAMES)}")
    size, window = (x.shape[1], x.shape[2]), (kernel.shape[0], kernel.shape[1])
    return ConvSpec(size, window, stride, padding, IMPLS[impl], compute_dtype)


def _round(x: Array, dtype: str) -> Array:
    """Rounds to a narrower dtype, through which gradients pass unrounded; "" does nothing."""
    return x if not dtype else x + lax.stop_gradient(x.astype(dtype).astype(x.dtype) - x)


def compute(primitive: str, spec: ConvSpec, a: Array, b: Array) -> Array:
    """The value of "conv", "input_gradient" or "kernel_gradient", in the implementation of the convolution."""
    if spec.compute_dtype:
        a, b = a.astype(spec.compute_dtype), b.astype(spec.compute_dtype)
    result: Array = getattr(spec.impl, primitive)(spec, a, b)
    return result


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(spec: ConvSpec, x: Array, w: Array) -> Array:
    return compute("conv", spec, x, w)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(spec: ConvSpec, dy: Array, w: Array) -> Array:
    return compute("input_gradient", spec, dy, w)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(spec: ConvSpec, x: Array, dy: Array) -> Array:
    return compute("kernel_gradient", spec, x, dy)


def define_vjps(
    conv: Callable[..., Array],
    input_gradient: Callable[..., Array],
    kernel_gradient: Callable[..., Array],
) -> None:
    """Declares the partial gradients of three primitives, each of which is made of the other two.

    They are ``conv(spec, x, w, *fixed)``, ``input_gradient(spec, dy, w, *fixed)`` and ``kernel_gradient(spec, x, dy,
    *fixed)``, each a `jax.custom_vjp`; `fixed` is the same for all three and has no gradient.
    """
    _define_vjp(
        conv,
        lambda spec, x, w, dy, *fixed: input_gradient(spec, dy, w, *fixed),
        lambda spec, x, w, dy, *fixed: kernel_gradient(spec, x, dy, *fixed),
    )
    _define_vjp(
        input_gradient,
        lambda spec, dy, w, dx, *fixed: conv(spec, dx, w, *fixed),
        lambda spec, dy, w, dx, *fixed: kernel_gradient(spec, dx, dy, *fixed),
    )
    _define_vjp(
        kernel_gradient,
        lambda spec, x, dy, dw, *fixed: input_gradient(spec, dy, dw, *fixed),
        lambda spec, x, dy, dw, *fixed: conv(spec, x, dw, *fixed),
    )


def _define_vjp(
    function: Callable[..., Array], first: Callable[..., Array], second: Callable[..., Array]
) -> None:
    """Declares the gradients of a function of (spec, a, b, *fixed) that is bilinear in a and b."""

    def forward(spec: ConvSpec, a: Array, b: Array, *fixed: Array) -> tuple[Array, Any]:
        return function(spec, a, b, *fixed), (a, b, fixed)

    def backward(spec: ConvSpec, saved: Any, c: Array) -> tuple[Array | None, ...]:
        a, b, fixed = saved
        gradients = first(spec, a, b, c, *fixed), second(spec, a, b, c, *fixed)
        return *gradients, *(None for _ in fixed)

    function.defvjp(forward, backward)  # type: ignore[attr-defined]


define_vjps(_conv, _input_gradient, _kernel_gradient)
