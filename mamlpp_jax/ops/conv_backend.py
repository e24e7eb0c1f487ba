"""Convolutions by the back end's own one.

    DIRECT    for one task at a time, in the one layout that the CPU back end is fast in; patches where `vmap`
              batches images and kernels
    GROUPED   `vmap` over images and kernels becomes one convolution with a group per task, written as the GPU
              libraries have it: groups of channels forward, groups of the batch in the kernel gradient

Automatic derivatives of `lax.conv_general_dilated` reach other forms of the same convolution, for which the CPU back
end has no fast kernel.
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
from mamlpp_jax.ops.conv_geometry import Geometry, Way, mirrored, sum_dtype
from mamlpp_jax.ops.conv_products import PATCHES, kernel_gradient_by_columns
from mamlpp_jax.types import Array
from mamlpp_jax.utils.arithmetic import largest_divisor

# Measured on a CPU with 1 MiB of second-level cache per core (experiments/PERFORMANCE.md) ...
_FEW_POSITIONS = 4096
_FEW_CHANNELS = 16
# ... and on one with 2 MiB: numbers of images and cotangents together.
_BLOCK_ELEMENTS = 200_000
_BLOCK_ELEMENTS_OF_FEW_CHANNELS = 2_000_000

_Product = Callable[[Geometry, Array, Array], Array]


def convolve(x: Array, w: Array, **options: Any) -> Array:
    """`lax.conv_general_dilated`, by default in the one layout that the CPU back end has a fast path for."""
    return lax.conv_general_dilated(
        x,
        w,
        **{"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options},
        preferred_element_type=sum_dtype(x),
    )


# --- One task at a time ---------------------------------------------------------------------------


def _unless_batched(direct: _Product, patches: _Product) -> _Product:
    """Calls `direct`, but `patches` under a `vmap` over either operand."""

    def product(g: Geometry, a: Array, b: Array) -> Array:
        function = custom_vmap(partial(direct, g))

        @function.def_vmap
        def rule(axis_size: int, batched: list[bool], a: Array, b: Array) -> tuple[Array, bool]:
            del axis_size
            axes = tuple(0 if is_batched else None for is_batched in batched)
            return jax.vmap(partial(patches, g), axes)(a, b), True

        return function(a, b)

    return product


def _conv_direct(g: Geometry, x: Array, w: Array) -> Array:
    return convolve(x, w, **_forward(g))


def _input_gradient_direct(g: Geometry, dy: Array, w: Array) -> Array:
    return convolve(dy, mirrored(w), **_backward(g))


def _forward(g: Geometry) -> dict[str, Any]:
    padding = [(g.padding, g.padding)] * 2
    return {"window_strides": (g.stride, g.stride), "padding": padding}


def _backward(g: Geometry) -> dict[str, Any]:
    """A stride-1 correlation of the dilated dy with the mirrored kernel."""
    return {
        "window_strides": (1, 1),
        "padding": g.backward_padding,
        "lhs_dilation": (g.stride, g.stride),
    }


def _sliding(g: Geometry) -> dict[str, Any]:
    """Channels as the batch, the batch as channels: x slides over dy, once per element of the kernel."""
    padding = [
        (g.padding, g.stride * (g.out[axis] - 1) + g.kernel[axis] - g.size[axis] - g.padding)
        for axis in (0, 1)
    ]
    return {
        "window_strides": (1, 1),
        "padding": padding,
        "rhs_dilation": (g.stride, g.stride),
    }


def _kernel_gradient_direct(g: Geometry, x: Array, dy: Array) -> Array:
    """Three forms, each the fastest of its sizes; large ones block by block, to stay in cache."""
    batch, channels = x.shape[0], x.shape[-1]
    if batch * g.out[0] * g.out[1] <= _FEW_POSITIONS:
        return _kernel_gradient_sliding(g, x, dy)
    if channels < _FEW_CHANNELS:
        form, block_elements = PATCHES.kernel_gradient, _BLOCK_ELEMENTS_OF_FEW_CHANNELS
    else:
        form, block_elements = kernel_gradient_by_columns, _BLOCK_ELEMENTS
    images = largest_divisor(batch, block_elements // (x[0].size + dy[0].size))
    return sum_blocks(partial(form, g), images, x, dy)


def _kernel_gradient_sliding(g: Geometry, x: Array, dy: Array) -> Array:
    # The transposes are spelled out because other dimension numbers miss the fast path in a loop.
    product = convolve(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), **_sliding(g))
    return product.transpose(1, 2, 0, 3)


DIRECT = Way(
    _unless_batched(_conv_direct, PATCHES.conv),
    _unless_batched(_input_gradient_direct, PATCHES.input_gradient),
    _unless_batched(_kernel_gradient_direct, PATCHES.kernel_gradient),
)


# --- All tasks at once ----------------------------------------------------------------------------

_GroupedProduct = Callable[[Geometry, int, Array, Array], Array]


def _with_groups(product: _GroupedProduct, joined: int, split: int) -> _Product:
    """A product that `vmap` computes as a single one over the tasks, joined to one of the axes.

    Args:
        product: (geometry, groups, a, b) -> result; the last axis of each has the groups one after another.
        joined: the axis of a that tasks join where b is the same for all of them.
        split: the axis of the result that they are found in then.
    """

    def unbatched_or_grouped(g: Geometry, a: Array, b: Array) -> Array:
        function = custom_vmap(partial(product, g, 1))

        @function.def_vmap
        def rule(axis_size: int, batched: list[bool], a: Array, b: Array) -> tuple[Array, bool]:
            if not batched[1]:
                result = product(g, 1, _join(a, joined), b)
                return _split(result, split, axis_size), True
            groups = axis_size if batched[0] else 1
            result = product(g, groups, _join(a, 3) if batched[0] else a, _join(b, 3))
            return _split(result, 3, axis_size), True

        return function(a, b)

    return unbatched_or_grouped


def _join(x: Array, axis: int) -> Array:
    """Merges the leading axis of tasks into another one, where it comes first."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _split(x: Array, axis: int, tasks: int) -> Array:
    """The opposite of `_join`."""
    x = x.reshape(*x.shape[:axis], tasks, -1, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)


def _conv_grouped(g: Geometry, groups: int, x: Array, w: Array) -> Array:
    return convolve(x, w, **_forward(g), feature_group_count=groups)


def _input_gradient_grouped(g: Geometry, groups: int, dy: Array, w: Array) -> Array:
    return convolve(dy, w, **_backward(g), feature_group_count=groups)


def _kernel_gradient_grouped(g: Geometry, groups: int, x: Array, dy: Array) -> Array:
    # No transposes: which axis is what is said by the dimension numbers, and the compiler chooses layouts.
    numbers = ("CHWN", "IHWO", "HWNC")
    return convolve(x, dy, **_sliding(g), dimension_numbers=numbers, batch_group_count=groups)


_input_gradient_of_mirrored = _with_groups(_input_gradient_grouped, 0, 0)

GROUPED = Way(
    _with_groups(_conv_grouped, 0, 0),
    lambda g, dy, w: _input_gradient_of_mirrored(g, dy, mirrored(w)),
    _with_groups(_kernel_gradient_grouped, 3, 2),
)
