"""The pytree that checkpoints hold of a state; the same for every version of this package."""

from __future__ import annotations

from typing import Any

import jax

from mamlpp_jax.types import MetaParams, MetaState


def to_stored(state: MetaState) -> Any:
    """The state as checkpoints hold it: `MetaParams` without an empty part, as before there were learned losses."""

    def pack(node: Any) -> Any:
        if not isinstance(node, MetaParams):
            return node
        parts = node._asdict()
        return parts if node.inner_loss else {k: v for k, v in parts.items() if k != "inner_loss"}

    return jax.tree.map(pack, state, is_leaf=lambda node: isinstance(node, MetaParams))


def from_stored(like: MetaState, stored: Any) -> MetaState:
    """The reverse of `to_stored`, for a state with the structure of `like`."""

    def unpack(node: Any, part: Any) -> Any:
        return MetaParams(**part) if isinstance(node, MetaParams) else part

    return jax.tree.map(unpack, like, stored, is_leaf=lambda node: isinstance(node, MetaParams))
