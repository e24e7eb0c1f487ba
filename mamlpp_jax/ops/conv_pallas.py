"""Convolutions as Pallas kernels, which read shifted images where they lie: no patches, no shifted copies.

    PALLAS    conv and input_gradient are one kernel (a correlation), kernel_gradient is a second one

Every block of a result is a sum of small matrix products. A step of the sum takes one element of the kernel
and a slice of the channels; where it reaches over the edge of an image, the factor is 0. `vmap` adds an axis to
the grid. Patches are gathered where the channels are no multiple of 16: those of images.

On a CPU the kernels are interpreted, slowly, for tests. For a GPU they have been lowered, but not yet compiled and
run on one. Pallas calls the back end they use (Triton) deprecated as of JAX 0.11.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from mamlpp_jax.ops.conv_geometry import Geometry, Way, mirrored, pad, sum_dtype
from mamlpp_jax.ops.conv_products import PATCHES
from mamlpp_jax.types import Array

# Sizes of blocks are powers of two, and products no smaller than this (a rule of Triton).
_SMALLEST, _LARGEST = 16, 64


class _Window(NamedTuple):
    """Which element of x [N, H, W, C] an output position meets: ``x[n, s * i + row - low[0], ...]``.

    Attributes:
        size: (H, W) of x.
        out: (H', W').
        kernel: (kh, kw).
        stride: s.
        low: zeros above and to the left of x.
    """

    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    low: tuple[int, int]

    def rows(self, existing: int, positions: Array, tap: Array) -> tuple[Array, Array]:
        """Of x as [N * H * W, C], with so many rows: those that output positions meet, and whether they exist."""
        image, place = _divmod(positions, self.out[0] * self.out[1])
        (i, j), (down, right) = _divmod(place, self.out[1]), _divmod(tap, self.kernel[1])
        row = self.stride * i + down - self.low[0]
        column = self.stride * j + right - self.low[1]
        inside = (row >= 0) & (row < self.size[0]) & (column >= 0) & (column < self.size[1])
        index = (image * self.size[0] + row) * self.size[1] + column
        inside &= index < existing
        return jnp.where(inside, index, 0), inside


def _divmod(a: Array, b: int) -> tuple[Array, Array]:
    """Of whole numbers that are not negative; Triton has no code for what `//` and `%` do with the others."""
    return lax.div(a, np.int32(b)), lax.rem(a, np.int32(b))


def _range(first: Array | int, count: int) -> Array:
    return first + jnp.arange(count, dtype=jnp.int32)


def _block(wanted: int) -> int:
    """The size of a block of positions or filters: a power of two."""
    return min(_LARGEST, max(_SMALLEST, pl.next_power_of_2(wanted)))


def _slice(channels: int) -> int:
    """Channels per step: the largest power of two that divides them, within the limit."""
    return min(_LARGEST, channels & -channels)


def _load(ref: Any, rows: Array, columns: Array, known: Array) -> Array:
    """ref[rows, columns] of a matrix, 0 where it is not `known`."""
    loaded: Array = plt.load(ref.at[rows[:, None], columns[None, :]], mask=known, other=0)
    return loaded


def _store(ref: Any, rows: Array, columns: Array, values: Array) -> None:
    inside = (rows < ref.shape[0])[:, None] & (columns < ref.shape[1])[None, :]
    plt.store(ref.at[rows[:, None], columns[None, :]], values, mask=inside)


def _dot(a: Array, b: Array, contracted: tuple[int, int], dtype: Any) -> Array:
    numbers = (((contracted[0],), (contracted[1],)), ((), ()))
    return lax.dot_general(a, b, numbers, preferred_element_type=dtype)


def _correlation_kernel(window: _Window, x: Any, w: Any, y: Any) -> None:
    """A block of y [N * H' * W', F] from x [N * H * W, C] and w [kh * kw * C, F]."""
    channels, filters = x.shape[1], w.shape[1]
    high, wide, step = _block(y.shape[0]), _block(filters), _slice(channels)
    positions = _range(pl.program_id(0) * high, high)
    columns = _range(pl.program_id(1) * wide, wide)
    known_columns = jnp.broadcast_to((columns < filters)[None, :], (step, wide))

    def add(index: Array, total: Array) -> Array:
        tap, part = _divmod(index.astype(jnp.int32), channels // step)
        within = _range(part * step, step)
        rows, inside = window.rows(x.shape[0], positions, tap)
        a = _load(x, rows, within, jnp.broadcast_to(inside[:, None], (high, step)))
        b = _load(w, tap * channels + within, columns, known_columns)
        return total + _dot(a, b, (1, 0), y.dtype)

    steps = window.kernel[0] * window.kernel[1] * (channels // step)
    total = lax.fori_loop(0, steps, add, jnp.zeros((high, wide), y.dtype))
    _store(y, positions, columns, total)


def _kernel_gradient_kernel(window: _Window, x: Any, dy: Any, dw: Any) -> None:
    """A block of dw [kh * kw * C, F] from x [N * H * W, C] and dy [N * H' * W', F]."""
    channels, filters = x.shape[1], dy.shape[1]
    high, wide, step = _block(dy.shape[0]), _block(filters), _slice(channels)
    first = pl.program_id(0) * step
    tap, start = _divmod(first, channels)
    within, columns = _range(start, step), _range(pl.program_id(1) * wide, wide)

    def add(index: Array, total: Array) -> Array:
        positions = _range(index.astype(jnp.int32) * high, high)
        rows, inside = window.rows(x.shape[0], positions, tap)
        a = _load(x, rows, within, jnp.broadcast_to(inside[:, None], (high, step)))
        known = (positions < dy.shape[0])[:, None] & (columns < filters)[None, :]
        return total + _dot(a, _load(dy, positions, columns, known), (0, 0), dw.dtype)

    blocks = pl.cdiv(dy.shape[0], high)
    total = lax.fori_loop(0, blocks, add, jnp.zeros((step, wide), dw.dtype))
    _store(dw, _range(first, step), columns, total)


def _is_interpreted() -> bool:
    return jax.default_backend() == "cpu"


def _call(kernel: Any, rows: int, block: int, a: Array, b: Array) -> Array:
    """Computes a matrix of so many rows, block by block, from the matrices a and b."""
    filters, dtype = b.shape[1], sum_dtype(a)
    # Inside `shard_map` the result differs between devices as the factors do.
    types = [jax.typeof(factor).manual_axis_type for factor in (a, b)]
    varying = max(types, key=lambda kind: len(kind.varying))
    interpreted = _is_interpreted()
    result: Array = pl.pallas_call(
        kernel,
        jax.ShapeDtypeStruct((rows, filters), dtype, manual_axis_type=varying),
        grid=(pl.cdiv(rows, block), pl.cdiv(filters, _block(filters))),
        interpret=interpreted,
        compiler_params=None if interpreted else plt.CompilerParams(num_warps=4, num_stages=3),
    )(a, b)
    return result


def _matrix(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _correlate(window: _Window, x: Array, w: Array) -> Array:
    rows = x.shape[0] * window.out[0] * window.out[1]
    y = _call(partial(_correlation_kernel, window), rows, _block(rows), _matrix(x), _matrix(w))
    return y.reshape(x.shape[0], *window.out, w.shape[-1])


def _takes(factor: Array) -> bool:
    """Whether the kernels take a factor with such channels; the interpreter knows no `shard_map`."""
    foreign = _is_interpreted() and jax.typeof(factor).manual_axis_type.varying
    return factor.shape[-1] % _SMALLEST == 0 and not foreign


def _conv(g: Geometry, x: Array, w: Array) -> Array:
    if not _takes(x):
        return PATCHES.conv(g, x, w)
    return _correlate(_Window(g.size, g.out, g.kernel, g.stride, (g.padding,) * 2), x, w)


def _input_gradient(g: Geometry, dy: Array, w: Array) -> Array:
    if not _takes(dy):
        return PATCHES.input_gradient(g, dy, w)
    if g.stride > 1:
        dy = pad(dy, (0, 0), (0, 0), g.stride - 1)
    (top, _), (left, _) = g.backward_padding
    window = _Window((dy.shape[1], dy.shape[2]), g.size, g.kernel, 1, (top, left))
    return _correlate(window, dy, mirrored(w))


def _kernel_gradient(g: Geometry, x: Array, dy: Array) -> Array:
    if not _takes(x):
        return PATCHES.kernel_gradient(g, x, dy)
    window = _Window(g.size, g.out, g.kernel, g.stride, (g.padding,) * 2)
    rows, channels = g.kernel[0] * g.kernel[1] * x.shape[-1], x.shape[-1]
    kernel = partial(_kernel_gradient_kernel, window)
    dw = _call(kernel, rows, _slice(channels), _matrix(x), _matrix(dy))
    return dw.reshape(*g.kernel, channels, dy.shape[-1])


PALLAS = Way(_conv, _input_gradient, _kernel_gradient)
