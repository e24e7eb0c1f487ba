"""The implementations of the three convolution primitives, in value.

    PATCHES   gathers patches, kh * kw times as large as the input, and multiplies them by the kernel; `vmap` over
              kernels makes a batched matrix product of it
    DIRECT    for one task at a time: the back end's own convolution, in the one layout that the CPU back end is fast
              in; under `vmap` over images or kernels PATCHES
    GROUPED   the back end's own convolution, which `vmap` over images and kernels makes one with a group per task,
              written as the GPU libraries have it: groups of channels forward, of the batch in the kernel gradient

The automatic derivatives of `lax.conv_general_dilated` are convolutions of other forms, for which the CPU back end has
no fast kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from mamlpp_jax.ops.blocks import sum_blocks
from mamlpp_jax.ops.conv_spec import (
    ConvImpl,
    ConvSpec,
    gather_patches,
    mirrored,
    multiply,
    padded_cotangent,
    padded_input,
    shifted_views,
    sum_dtype,
    sum_products,
)
from mamlpp_jax.types import Array
from mamlpp_jax.utils.arithmetic import largest_divisor

# Measured on a CPU with 1 MiB of second-level cache per core (docs/results/performance.md) ...
_FEW_POSITIONS = 4096
_FEW_CHANNELS = 16
# ... and on one with 2 MiB: numbers of images and cotangents together.
_BLOCK_ELEMENTS = 200_000
_BLOCK_ELEMENTS_OF_FEW_CHANNELS = 2_000_000

_Primitive = Callable[[ConvSpec, Array, Array], Array]


# --- Patches --------------------------------------------------------------------------------------


def _conv_patches(spec: ConvSpec, x: Array, w: Array) -> Array:
    patches = gather_patches(padded_input(spec, x), spec.kernel, spec.out, spec.strides)
    return multiply(patches, _matrix(w))


def _input_gradient_patches(spec: ConvSpec, dy: Array, w: Array) -> Array:
    patches = gather_patches(padded_cotangent(spec, dy), spec.kernel, spec.size, (1, 1))
    return multiply(patches, _matrix(mirrored(w)))


def _kernel_gradient_patches(spec: ConvSpec, x: Array, dy: Array) -> Array:
    patches = gather_patches(padded_input(spec, x), spec.kernel, spec.out, spec.strides)
    return sum_products(patches, dy).reshape(*spec.kernel, x.shape[-1], dy.shape[-1])


def _matrix(w: Array) -> Array:
    return w.reshape(-1, w.shape[-1])


PATCHES = ConvImpl(_conv_patches, _input_gradient_patches, _kernel_gradient_patches)


# --- The back end's own convolution ---------------------------------------------------------------


def convolve(x: Array, w: Array, **options: Any) -> Array:
    """`lax.conv_general_dilated`, by default in the one layout that the CPU back end has a fast path for."""
    return lax.conv_general_dilated(
        x,
        w,
        **{"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options},
        preferred_element_type=sum_dtype(x),
    )


def _conv(spec: ConvSpec, x: Array, w: Array, groups: int = 1) -> Array:
    padding = [(spec.padding, spec.padding)] * 2
    return convolve(x, w, window_strides=spec.strides, padding=padding, feature_group_count=groups)


def _input_gradient(spec: ConvSpec, dy: Array, w: Array, groups: int = 1) -> Array:
    """A stride-1 correlation of the dilated dy with a kernel that is mirrored already."""
    return convolve(
        dy,
        w,
        window_strides=(1, 1),
        padding=spec.backward_padding,
        lhs_dilation=spec.strides,
        feature_group_count=groups,
    )


def _sliding(spec: ConvSpec) -> dict[str, Any]:
    """Channels as the batch, the batch as channels: x slides over dy, once per element of the kernel."""
    padding = [
        (spec.padding, spec.stride * (out - 1) + kernel - size - spec.padding)
        for out, kernel, size in zip(spec.out, spec.kernel, spec.size, strict=True)
    ]
    return {"window_strides": (1, 1), "padding": padding, "rhs_dilation": spec.strides}


# --- One task at a time ---------------------------------------------------------------------------


def _unless_batched(direct: _Primitive, patches: _Primitive) -> _Primitive:
    """Calls `direct`, but `patches` under a `vmap` over either operand."""

    def primitive(spec: ConvSpec, a: Array, b: Array) -> Array:
        function = custom_vmap(partial(direct, spec))

        @function.def_vmap
        def rule(axis_size: int, batched: list[bool], a: Array, b: Array) -> tuple[Array, bool]:
            del axis_size
            axes = tuple(0 if is_batched else None for is_batched in batched)
            return jax.vmap(partial(patches, spec), axes)(a, b), True

        return function(a, b)

    return primitive


def _kernel_gradient_direct(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """Three forms, each the fastest of its sizes; large ones block by block, to stay in cache."""
    batch, channels = x.shape[0], x.shape[-1]
    if batch * spec.out[0] * spec.out[1] <= _FEW_POSITIONS:
        return _kernel_gradient_sliding(spec, x, dy)
    if channels < _FEW_CHANNELS:
        form, block_elements = _kernel_gradient_patches, _BLOCK_ELEMENTS_OF_FEW_CHANNELS
    else:
        form, block_elements = _kernel_gradient_by_columns, _BLOCK_ELEMENTS
    images = largest_divisor(batch, block_elements // (x[0].size + dy[0].size))
    return sum_blocks(partial(form, spec), images, x, dy)


def _kernel_gradient_sliding(spec: ConvSpec, x: Array, dy: Array) -> Array:
    # The transposes are spelled out because other dimension numbers miss the fast path in a loop.
    dw = convolve(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), **_sliding(spec))
    return dw.transpose(1, 2, 0, 3)


def _kernel_gradient_by_columns(spec: ConvSpec, x: Array, dy: Array) -> Array:
    """One matrix product for each row of the kernel.

    The views of a row's elements stand side by side, [N, H + 2 padding, W', kw * C]. A product over positions needs
    its left side transposed: dy is the narrower of the two.
    """
    (high, wide), (rows, columns) = spec.out, spec.kernel
    padded = padded_input(spec, x)
    side_by_side = gather_patches(padded, (1, columns), (padded.shape[1], wide), (1, spec.stride))
    strips = shifted_views(side_by_side, (rows, 1), (high, wide), (spec.stride, 1))
    products = jnp.stack([sum_products(dy, strip) for strip in strips])
    by_channel = products.reshape(rows, dy.shape[-1], columns, x.shape[-1])
    return by_channel.transpose(0, 2, 3, 1)


DIRECT = ConvImpl(
    _unless_batched(_conv, _conv_patches),
    _unless_batched(
        lambda spec, dy, w: _input_gradient(spec, dy, mirrored(w)), _input_gradient_patches
    ),
    _unless_batched(_kernel_gradient_direct, _kernel_gradient_patches),
    in_cache=True,
)


# --- All tasks at once ----------------------------------------------------------------------------


def _with_groups(convolution: Callable[..., Array], joined: int, split: int) -> _Primitive:
    """A primitive that `vmap` computes as a single convolution over the tasks, joined to one of the axes.

    Results and operands of `convolution` have the groups one after another in their last axis. Where b is the same for
    all tasks, they join the axis `joined` of a, and the result has them in the axis `split`.
    """

    def primitive(spec: ConvSpec, a: Array, b: Array) -> Array:
        function = custom_vmap(partial(convolution, spec, groups=1))

        @function.def_vmap
        def rule(axis_size: int, batched: list[bool], a: Array, b: Array) -> tuple[Array, bool]:
            if not batched[1]:
                result = convolution(spec, _join(a, joined), b, 1)
                return _split(result, split, axis_size), True
            groups = axis_size if batched[0] else 1
            result = convolution(spec, _join(a, 3) if batched[0] else a, _join(b, 3), groups)
            return _split(result, 3, axis_size), True

        return function(a, b)

    return primitive


def _join(x: Array, axis: int) -> Array:
    """Merges the leading axis of tasks into another one, where it comes first."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _split(x: Array, axis: int, tasks: int) -> Array:
    """The opposite of `_join`."""
    x = x.reshape(*x.shape[:axis], tasks, -1, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)


def _kernel_gradient_grouped(spec: ConvSpec, x: Array, dy: Array, groups: int) -> Array:
    # No transposes: the dimension numbers give each axis its role, and the compiler chooses layouts.
    numbers = ("CHWN", "IHWO", "HWNC")
    return convolve(x, dy, **_sliding(spec), dimension_numbers=numbers, batch_group_count=groups)


_input_gradient_grouped = _with_groups(_input_gradient, 0, 0)

GROUPED = ConvImpl(
    _with_groups(_conv, 0, 0),
    lambda spec, dy, w: _input_gradient_grouped(spec, dy, mirrored(w)),
    _with_groups(_kernel_gradient_grouped, 3, 2),
)

IMPLS = {"patches": PATCHES, "direct": DIRECT, "grouped": GROUPED}
