"""Means and variances of activations, and pytrees with an entry per normalised layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mamlpp_jax.types import Array, Moments, RunningStats
from mamlpp_jax.utils.trees import entry


def moments(x: Array, axes: tuple[int, ...], *, keepdims: bool = False) -> tuple[Array, Array]:
    """Mean and biased variance over some axes, in one pass over x."""
    mean = jnp.mean(x, axes, keepdims=keepdims)
    # Rounding can push the difference below zero when the mean is large.
    square = jnp.mean(jnp.square(x), axes, keepdims=keepdims)
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


def update_running(running: RunningStats, batch: Moments, momentum: float = 0.9) -> RunningStats:
    """One exponential update of {layer: {"mean", "var"}}: ``momentum * running + (1 - momentum) * batch``.

    The batch's variance enters unbiased (times n / (n - 1), n = "count"), as in PyTorch.
    """

    def one(old: dict[str, Array], new: dict[str, Array]) -> dict[str, Array]:
        count = new["count"][..., None]
        unbiased = new["var"] * count / jnp.maximum(count - 1, 1)
        target = {"mean": new["mean"], "var": unbiased}
        return jax.tree.map(lambda o, t: momentum * o + (1 - momentum) * t, old, target)

    return map_layers(one, running, batch)


def fold_moments(
    running: RunningStats, support: Moments, query: Moments, *, per_step: bool
) -> RunningStats:
    """Updates the running statistics by one outer step's passes, in the order they happened.

    Entry i takes the support pass and then the query pass of inner step i, leaves [S, F]. Shared statistics, [F], take
    the passes of all steps one after another. Without the multi-step loss only the last step has a query pass, [1, F].
    A backbone without batch norm has none.
    """
    if not jax.tree.leaves(running):
        return running
    steps, queries = (jax.tree.leaves(moments)[0].shape[0] for moments in (support, query))
    entries = []
    for i in range(steps):
        stats = entry(running, i) if per_step else running
        stats = update_running(stats, entry(support, i))
        if i >= steps - queries:
            stats = update_running(stats, entry(query, i - steps))
        entries.append(stats)
        running = running if per_step else stats
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *entries) if per_step else running


def map_layers(function: Callable[..., Any], *trees: Any) -> Any:
    """Applies a function to the entries, such as {"mean", "var"}, of every normalised layer."""

    def is_layer(node: Any) -> bool:
        return (
            isinstance(node, Mapping)
            and bool(node)
            and not any(isinstance(entry, Mapping) for entry in node.values())
        )

    return jax.tree.map(function, *trees, is_leaf=is_layer)
