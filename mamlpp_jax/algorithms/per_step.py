"""What each inner step reads besides its task: batch norm and what the inner optimizer learned."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.models.moments import update_running
from mamlpp_jax.models.renorm import with_hand_over
from mamlpp_jax.models.task_norm import has_blend, remove_blend
from mamlpp_jax.types import Array, MetaParams, Moments, NormParams, RunningStats


class PerStep(NamedTuple):
    """Leaves [S, ...] over all inner steps, [...] for one of them.

    Attributes:
        norm: batch-norm scale and bias, and TaskNorm's blend.
        inner: the inner optimizer's learned part.
        bn_stats: running mean and variance, and what `renorm` adds.
        key: random key of the step of one task, for a backbone that drops units; None to drop nothing.
    """

    norm: NormParams
    inner: Any
    bn_stats: RunningStats
    key: Array | None = None


def lay_out(
    learner: Learner, meta: MetaParams, batch_stats: RunningStats, hand_over: Array | float = 1.0
) -> PerStep:
    """Gives each of the learner's inner steps its own entry.

    Shared batch-norm leaves [F] become the same entry in every step. Where the learner takes more steps than
    were trained, the last entry repeats; where it takes fewer, the first ones are used.

    Args:
        learner: the number of steps, and what is shared.
        meta: norm leaves [S', F] or [F], inner leaves [S', ...] or [1, ...].
        batch_stats: leaves [S', F] or [F].
        hand_over: of `StepPlan`; 1, as in every evaluation, by default.

    Raises:
        ValueError: the mode is `tasknorm`, and the model was made for another one.
    """
    norm = meta.norm
    if learner.bn_mode != "tasknorm":
        norm = remove_blend(norm)
    elif not has_blend(norm):
        raise ValueError(
            "bn_mode is 'tasknorm', but this model has learned no blend of moments: `init_state` makes one for a "
            "learner of that mode."
        )

    def fit(leaf: Array) -> Array:
        missing = learner.inner_steps - leaf.shape[0]
        if missing <= 0:
            return leaf[: learner.inner_steps]
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])

    def fit_norm(tree: Any, per_step: bool) -> Any:
        return jax.tree.map(lambda leaf: fit(leaf if per_step else leaf[None]), tree)

    stats = fit_norm(batch_stats, learner.per_step_statistics)
    if learner.bn_mode == "renorm":
        stats = with_hand_over(stats, hand_over)
    return PerStep(fit_norm(norm, learner.per_step_affine), jax.tree.map(fit, meta.inner), stats)


def at_step(per_step: PerStep, index: int) -> PerStep:
    """The entry of one inner step; `index` is static and may be negative."""
    return jax.tree.map(lambda leaf: leaf[index], per_step)


def fold_moments(
    running: RunningStats, support: Moments, query: Moments, *, per_step: bool
) -> RunningStats:
    """Updates the running statistics by one outer step's passes, in the order they happened.

    Entry i takes the support pass and then the query pass of inner step i. Shared statistics take the
    passes of all steps one after another. Without the multi-step loss only the last step has a query pass.

    Args:
        running: leaves [S, F], or [F] when shared; empty for a backbone without batch norm.
        support: leaves [S, F].
        query: leaves [S, F] or [1, F].
        per_step: whether `running` has an entry per inner step.
    """
    if not jax.tree.leaves(running):
        return running
    steps, queries = (jax.tree.leaves(moments)[0].shape[0] for moments in (support, query))
    entries = []
    for i in range(steps):
        entry = _at(running, i) if per_step else running
        entry = update_running(entry, _at(support, i))
        if i >= steps - queries:
            entry = update_running(entry, _at(query, i - steps))
        entries.append(entry)
        running = running if per_step else entry
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *entries) if per_step else running


def _at(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)
