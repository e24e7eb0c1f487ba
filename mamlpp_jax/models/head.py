"""The last layer of a backbone, and what becomes of it for another number of classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamlpp_jax.types import Array, MetaParams

HEAD = "linear"


def with_ways(meta: MetaParams, ways: int) -> MetaParams:
    """A model for another number of classes than it was trained with.

    Fewer classes use the first columns of the head; more give each extra column the mean of the trained ones.

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

    return meta._replace(params={**meta.params, HEAD: jax.tree.map(fit, meta.params[HEAD])})
