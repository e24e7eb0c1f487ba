"""The last layer of a backbone, and what becomes of it for another number of classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mamlpp_jax.types import Array, MetaParams, Params

HEAD = "linear"


def head_with_ways(params: Params, ways: int) -> Params:
    """The weights of a backbone with another number of columns of its head; see `with_ways`.

    A head of a single column becomes equal columns. Kept single and widened for each task, it is the shared head
    of UNICORN-MAML: adaptation alone tells the classes apart, so their order cannot matter and any number of ways fits.

    References:
        Ye, Chao, "How to Train Your MAML to Excel in Few-Shot Classification", ICLR 2022.
    """
    return {**params, HEAD: jax.tree.map(lambda leaf: _fit(leaf, ways), params[HEAD])}


def with_ways(meta: MetaParams, ways: int) -> MetaParams:
    """A model for another number of classes than it was trained with.

    Fewer classes use the first columns of the head; more give each extra column the mean of the trained ones. Learned
    rates that there are of every weight of the head follow it. A backbone without such a head stays as it is.

    Args:
        meta: with a head `linear` of kernel [D, K] and bias [K].
        ways: wanted K.

    Example:
        >>> wider = maml.with_ways(state.meta._replace(params={"linear": variables.params}, inner={}), 20)
        >>> wider.params["linear"]["kernel"].shape
        (4, 20)
    """
    if HEAD not in meta.params:
        return meta
    head = meta.params[HEAD]

    def fit_rates(path: tuple[Any, ...], leaf: Array) -> Array:
        *_, layer, tensor = ["", "", *(getattr(key, "key", None) for key in path)]
        per_weight = layer == HEAD and leaf.shape[1:] == head[tensor].shape
        return _fit(leaf, ways) if per_weight else leaf

    return meta._replace(
        params=head_with_ways(meta.params, ways),
        inner=jax.tree_util.tree_map_with_path(fit_rates, meta.inner),
    )


def _fit(leaf: Array, ways: int) -> Array:
    """The first columns, or all and their mean as often as columns are missing."""
    extra = ways - leaf.shape[-1]
    if extra <= 0:
        return leaf[..., :ways]
    mean = jnp.repeat(leaf.mean(-1, keepdims=True), extra, axis=-1)
    return jnp.concatenate([leaf, mean], axis=-1)
