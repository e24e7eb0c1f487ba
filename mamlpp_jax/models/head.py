"""The last layer of a backbone, and what becomes of it for another number of classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mamlpp_jax.types import Array, MetaParams

HEAD = "linear"


def with_ways(meta: MetaParams, ways: int) -> MetaParams:
    """A model for another number of classes than it was trained with.

    Fewer classes use the first columns of the head; more give each extra column the mean of the trained ones. Learned
    rates that there are of every weight of the head follow it.

    Args:
        meta: with a head `linear` of kernel [D, K] and bias [K].
        ways: wanted K.
    """

    def fit(leaf: Array) -> Array:
        extra = ways - leaf.shape[-1]
        if extra <= 0:
            return leaf[..., :ways]
        mean = jnp.repeat(leaf.mean(-1, keepdims=True), extra, axis=-1)
        return jnp.concatenate([leaf, mean], axis=-1)

    head = meta.params[HEAD]

    def fit_rates(path: tuple[Any, ...], leaf: Array) -> Array:
        *_, layer, tensor = ["", "", *(getattr(key, "key", None) for key in path)]
        per_weight = layer == HEAD and leaf.shape[1:] == head[tensor].shape
        return fit(leaf) if per_weight else leaf

    return meta._replace(
        params={**meta.params, HEAD: jax.tree.map(fit, head)},
        inner=jax.tree_util.tree_map_with_path(fit_rates, meta.inner),
    )
