"""Functions of images, applied block by block so that intermediate results fit the cache."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from mamlpp_jax.types import Array

Result = TypeVar("Result")


def map_blocks(function: Callable[..., Result], size: int, *arrays: Array) -> Result:
    """Applies a function to each block of `size` images, a divisor of N, of arrays [N, ...] and joins the results."""
    if size == arrays[0].shape[0]:
        return function(*arrays)
    results = lax.map(lambda block: function(*block), _split(size, arrays))
    return jax.tree.map(lambda result: result.reshape(-1, *result.shape[2:]), results)


def sum_blocks(function: Callable[..., Result], size: int, *arrays: Array) -> Result:
    """Applies a function to each block of images and adds up its results, of any shape; see `map_blocks`."""
    if size == arrays[0].shape[0]:
        return function(*arrays)
    blocks = _split(size, arrays)
    # Zeros that `shard_map` takes for different ones on each device, as the blocks are; the compiler drops the rest.
    zeros = jax.tree.map(jnp.zeros_like, function(*(block[0] for block in blocks)))
    add = partial(jax.tree.map, operator.add)
    return lax.scan(lambda total, block: (add(total, function(*block)), None), zeros, blocks)[0]


def _split(size: int, arrays: tuple[Array, ...]) -> list[Array]:
    return [array.reshape(-1, size, *array.shape[1:]) for array in arrays]
