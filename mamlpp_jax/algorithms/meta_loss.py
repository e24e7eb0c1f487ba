"""The loss that the outer loop minimises: what a batch of tasks costs after adaptation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.task import PerStep, adapt_to, at_step, make_task
from mamlpp_jax.types import Array, Episode, MetaParams, Moments, Params, RunningStats, StepPlan
from mamlpp_jax.utils.trees import entry


class LossAux(NamedTuple):
    """By-products of the meta-loss."""

    metric: Array  # [], on the query set after the last inner step, mean over tasks
    # Outputs of the query set after the last inner step: logits [B, M, K], or leaves [B, M, ...].
    outputs: Any
    support_moments: Moments  # mean over tasks, leaves [S, F]
    # Mean over tasks, leaves [S, F]; [1, F] when only the last step's query loss counts.
    query_moments: Moments


def task_loss(
    learner: Learner, meta: MetaParams, batch_stats: RunningStats, plan: StepPlan, episode: Episode
) -> tuple[Array, LossAux]:
    """Loss of one task; see `meta_loss`, whose terms have a leading B."""
    task = make_task(learner, meta, batch_stats, episode, plan.anneal)

    def query(theta: Params, step: PerStep) -> tuple[Array, Any, Moments]:
        outputs, moments = task.query(theta, step)
        return (
            learner.query_loss(outputs, episode.query.targets),
            outputs,
            lax.stop_gradient(moments),
        )

    after_step = query if plan.multi_step else None
    theta, trace = adapt_to(learner, task, order=plan.order, after_step=after_step)
    if plan.multi_step:
        losses, outputs, query_moments = trace.after
        loss, outputs = jnp.sum(plan.weights * losses), entry(outputs, -1)
    else:
        loss, outputs, moments = query(theta, at_step(task.per_step, -1))
        query_moments = jax.tree.map(lambda leaf: leaf[None], moments)
    metric = learner.metric(outputs, episode.query.targets)
    return loss, LossAux(metric, outputs, trace.aux, query_moments)


def meta_loss(
    learner: Learner,
    meta: MetaParams,
    batch_stats: RunningStats,
    episodes: Episode,
    plan: StepPlan,
) -> tuple[Array, LossAux]:
    """The loss that the outer loop minimises, mean over a batch of tasks.

    ``sum_i weights[i] * L_query(theta_{i+1}, step i)`` with `plan.multi_step` (equation 4 of the paper),
    ``L_query(theta_S, step S-1)`` otherwise (equation 2); the other terms are then not computed.

    Args:
        learner: the static part.
        meta: meta-parameters; norm leaves [S, F] or [F].
        batch_stats: running statistics; read by modes with `reads_running` alone.
        episodes: leaves with a leading B.
        plan: derivative order, multi-step or not, and its weights.

    Returns:
        The loss, a scalar, and its by-products.

    Raises:
        ValueError: leading axes differ, the weights are not one per inner step, or labels that are known when this is
            called are no classes of the backbone.

    Example:
        >>> loss, aux = maml.meta_loss(learner, state.meta, {}, episodes, maml.StepPlan(order=1))
        >>> loss.shape, aux.outputs.shape
        ((), (8, 3, 3))
    """
    shape, steps = np.shape(plan.weights), learner.inner_steps  # type: ignore[arg-type]
    if plan.multi_step and shape != (steps,):
        raise ValueError(
            f"StepPlan.weights has the shape {shape}; it must be ({steps},), a weight for each of the learner's "
            f"{steps} inner steps."
        )
    check_targets(learner, meta, batch_stats, episodes)
    losses, aux = map_tasks(partial(task_loss, learner, meta, batch_stats, plan), episodes)
    mean = partial(jax.tree.map, lambda leaf: leaf.mean(0))
    return losses.mean(), aux._replace(
        metric=aux.metric.mean(),
        support_moments=mean(aux.support_moments),
        query_moments=mean(aux.query_moments),
    )


def check_targets(
    learner: Learner, meta: MetaParams, batch_stats: RunningStats, episodes: Episode
) -> None:
    """Checks targets where they are known: outside `jit`, by losses that have a `check(outputs, targets)`."""
    sets = ((episodes.support, learner.inner_loss), (episodes.query, learner.query_loss))
    known = [
        (check, batch.targets)
        for batch, loss in sets
        if (check := getattr(loss, "check", None))
        and not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(batch.targets))
    ]
    if not known:
        return

    def outputs(meta: MetaParams) -> Any:
        task = make_task(learner, meta, batch_stats, entry(episodes, 0))
        return task.query(task.theta, at_step(task.per_step, 0))[0]

    shape = jax.eval_shape(outputs, meta)
    for check, targets in known:
        check(shape, targets)


def map_tasks(function: Callable[[Episode], Any], episodes: Episode) -> Any:
    """`vmap` over tasks, of which all leaves must have as many.

    A single task runs unbatched, which compiles to plain matrix products.
    """
    tasks = {leaf.shape[0] for leaf in jax.tree.leaves(episodes)}
    if len(tasks) != 1:
        raise ValueError(
            f"episodes have leaves of {' and '.join(map(str, sorted(tasks)))} tasks; every leaf needs the same "
            "leading axis."
        )
    if tasks != {1}:
        return jax.vmap(function)(episodes)
    return jax.tree.map(lambda leaf: leaf[None], function(entry(episodes, 0)))
