"""Starting a run from trained weights: which are taken, repeated or fitted, and which are new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from mamlpp_jax.errors import ConfigError
from mamlpp_jax.models.head import HEAD, with_ways
from mamlpp_jax.types import Array, MetaParams, RunningStats

_FIELD = "config.train.start_from"


class Start(NamedTuple):
    """Trained weights to start from.

    Attributes:
        config: what they were trained with.
        meta: what was learned; norm leaves [S', F] or [F].
        batch_stats: running statistics, leaves [S', F] or [F].
        has_head: False where the head is of other classes than tasks have, as after pretraining.
        origin: record of where they come from, for results; has the entry "sha256".
    """

    config: ConfigDict | FrozenConfigDict
    meta: MetaParams
    batch_stats: RunningStats
    has_head: bool
    origin: Mapping[str, Any]


def carry_over(
    config: ConfigDict, fresh: MetaParams, fresh_stats: RunningStats, start: Start
) -> tuple[MetaParams, RunningStats, list[str]]:
    """Puts trained weights into freshly initialised ones.

    Args:
        config: of the new run.
        fresh: its meta-parameters before the first outer step.
        fresh_stats: its running statistics.
        start: the trained weights.

    Returns:
        Meta-parameters, running statistics, and a line of text for each part that says where it is from.

    Raises:
        ConfigError: the backbones differ; names the first tensor.
    """
    params, head_text = _params(config, fresh.params, start)
    norm, norm_text = _over_steps(fresh.norm, start.meta.norm)
    stats, stats_text = _over_steps(fresh_stats, start.batch_stats)
    inner, inner_text = _learned(config, start, "optimizer", fresh.inner, start.meta.inner)
    loss, loss_text = _learned(config, start, "loss", fresh.inner_loss, start.meta.inner_loss)
    lines = [
        "backbone: taken",
        f"head: {head_text}",
        f"batch-norm scale and bias: {norm_text}",
        f"running statistics: {stats_text}",
        f"learned by the inner optimizer: {inner_text}",
        f"learned by the inner loss: {loss_text}",
        "outer optimizer: new",
    ]
    return MetaParams(params, norm, inner, loss), stats, lines


def _params(config: ConfigDict, fresh: Any, start: Start) -> tuple[Any, str]:
    """The weights of the backbone and of the head, and what is said of the head."""
    shared, was_shared = config.model.shared_head, start.config.model.shared_head
    trained = start.meta.params
    if HEAD in fresh and HEAD in trained:
        if not start.has_head:
            text, trained = "new, after pretraining", {**trained, HEAD: fresh[HEAD]}
        elif shared != was_shared:
            text, trained = "new, since one of the two is shared", {**trained, HEAD: fresh[HEAD]}
        elif shared or config.task.way == start.config.task.way:
            text = "taken"
        else:
            trained = with_ways(start.meta, config.task.way).params
            text = f"fitted from {start.config.task.way} to {config.task.way} ways"
    else:
        text = "taken with the backbone"
    _check_same_shapes(fresh, trained)
    return jax.tree.map(lambda new, old: jnp.asarray(old, new.dtype), fresh, trained), text


def _check_same_shapes(fresh: Any, trained: Any) -> None:
    here, there = _shapes(fresh), _shapes(trained)
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise ConfigError(
                f"{_FIELD}: {name} has the shape {there.get(name)} there and {here.get(name)} here; "
                "choose the same model.name, model.filters and data.channels, or another start."
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _over_steps(fresh: Any, trained: Any) -> tuple[Any, str]:
    """Entries of batch norm, for the steps of the new run; entries that were not learned are new."""
    texts = set()

    def fit(path: Any, new: Array) -> Array:
        old = _at(trained, path)
        if old is None:
            texts.add("in part new")
            return new
        old = np.asarray(old)
        if old.ndim == new.ndim and old.shape[-1:] == new.shape[-1:]:
            if old.shape == new.shape:
                texts.add("taken")
                return jnp.asarray(old, new.dtype)
            steps, wanted = old.shape[0], new.shape[0]
            texts.add(
                f"taken of {min(steps, wanted)} steps" + ", the last repeated" * (wanted > steps)
            )
            rows = np.minimum(np.arange(wanted), steps - 1)
            return jnp.asarray(old[rows], new.dtype)
        if old.ndim + 1 == new.ndim and old.shape == new.shape[1:]:
            texts.add(f"repeated over {new.shape[0]} steps")
            return jnp.broadcast_to(jnp.asarray(old, new.dtype), new.shape)
        if old.ndim == new.ndim + 1 and old.shape[1:] == new.shape:
            texts.add(f"those of the last of {old.shape[0]} steps, now shared")
            return jnp.asarray(old[-1], new.dtype)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        raise ConfigError(
            f"{_FIELD}: the batch norm {name} has the shape {old.shape} there and {tuple(new.shape)} here; choose the "
            "same model.name and model.filters, or another start."
        )

    fitted = jax.tree_util.tree_map_with_path(fit, fresh)
    return fitted, ", ".join(sorted(texts)) or "none"


def _at(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree.get(key.key) if isinstance(tree, Mapping) else None
    return tree


def _learned(
    config: ConfigDict, start: Start, part: str, fresh: Any, trained: Any
) -> tuple[Any, str]:
    """What the inner optimizer or the inner loss learned, where it is the same part with as many steps."""
    if not jax.tree.leaves(fresh):
        return fresh, "nothing"
    agree = (
        config.inner[part] == start.config.inner[part]
        and config.train.inner_steps == start.config.train.inner_steps
        and _shapes(fresh) == _shapes(trained)
    )
    if not agree:
        return fresh, "new"
    return jax.tree.map(lambda new, old: jnp.asarray(old, new.dtype), fresh, trained), "taken"
