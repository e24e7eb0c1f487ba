"""Means and variances of activations, and pytrees with an entry per normalised layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mamlpp_jax.types import Array, Moments, RunningStats


def moments(x: Array, axes: tuple[int, ...], *, keepdims: bool = False) -> tuple[Array, Array]:
    """Mean and biased variance over some axes, in one pass over x."""
    mean = jnp.mean(x, axes, keepdims=keepdims)
    # Rounding can push the difference below zero when the mean is large.
    square = jnp.mean(jnp.square(x), axes, keepdims=keepdims)
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


def update_running(running: RunningStats, batch: Moments, momentum: float = 0.9) -> RunningStats:
    """One exponential update: ``momentum * running + (1 - momentum) * batch``.

    The batch's variance enters unbiased (times n / (n - 1)), as in PyTorch.

    Args:
        running: {layer: {"mean", "var"}}, layers nested as in the backbone.
        batch: of the same layers, with "count" (n) beside mean and biased variance.
        momentum: what is kept.
    """

    def one(old: dict[str, Array], new: dict[str, Array]) -> dict[str, Array]:
        count = new["count"][..., None]
        unbiased = new["var"] * count / jnp.maximum(count - 1, 1)
        target = {"mean": new["mean"], "var": unbiased}
        return jax.tree.map(lambda o, t: momentum * o + (1 - momentum) * t, old, target)

    return map_layers(one, running, batch)


def map_layers(function: Callable[..., Any], *trees: Any) -> Any:
    """Applies a function to the entries, such as {"mean", "var"}, of every normalised layer."""

    def is_layer(node: Any) -> bool:
        return (
            isinstance(node, Mapping)
            and bool(node)
            and not any(isinstance(entry, Mapping) for entry in node.values())
        )

    return jax.tree.map(function, *trees, is_leaf=is_layer)
