"""The loss that the outer loop minimises: what a batch of tasks costs after adaptation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mamlpp_jax.algorithms.fixed_body import on_features
from mamlpp_jax.algorithms.inner_loop import adapt, query_pass
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.noise import with_step_keys
from mamlpp_jax.algorithms.per_step import PerStep, at_step, lay_out
from mamlpp_jax.types import Array, Episode, MetaParams, Moments, Params, RunningStats, StepPlan


class LossAux(NamedTuple):
    """By-products of the meta-loss.

    Attributes:
        metric: [], of the query set after the last inner step, mean over tasks.
        outputs: of the query set after the last inner step; logits [B, M, K].
        support_moments: mean over tasks, leaves [S, F].
        query_moments: mean over tasks, leaves [S, F]; [1, F] when only the last step's query loss counts.
    """

    metric: Array
    outputs: Array
    support_moments: Moments
    query_moments: Moments


def task_loss(
    learner: Learner, params: Params, per_step: PerStep, plan: StepPlan, episode: Episode
) -> tuple[Array, LossAux]:
    """Loss of one task; see `meta_loss`, whose terms have a leading B."""
    per_step = with_step_keys(per_step, episode, learner.inner_steps)
    learner, episode = on_features(learner, params, per_step, episode)

    def query(theta: Params, step: PerStep) -> tuple[Array, Array, Moments]:
        outputs, moments = query_pass(learner, theta, step, episode)
        loss = learner.query_loss(outputs, episode.query_labels)
        return loss, outputs, lax.stop_gradient(moments)

    theta, trace = adapt(
        learner,
        params,
        per_step,
        episode,
        order=plan.order,
        after_step=query if plan.multi_step else None,
        differentiated=True,
    )
    if plan.multi_step:
        losses, all_outputs, query_moments = trace.after
        loss, outputs = jnp.sum(plan.weights * losses), all_outputs[-1]
    else:
        loss, outputs, moments = query(theta, at_step(per_step, -1))
        query_moments = jax.tree.map(lambda leaf: leaf[None], moments)
    metric = learner.metric(outputs, episode.query_labels)
    return loss, LossAux(metric, outputs, trace.support_moments, query_moments)


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
        meta: what is learned; norm leaves [S, F] or [F].
        batch_stats: running statistics; read by the modes `running` and `renorm` alone.
        episodes: leaves with a leading B.
        plan: derivative order, multi-step or not, and its weights.

    Returns:
        The loss, a scalar, and its by-products.
    """
    per_step = lay_out(learner, meta, batch_stats, plan.hand_over)
    start = learner.start(meta.params)
    losses, aux = map_tasks(partial(task_loss, learner, start, per_step, plan), episodes)
    mean = partial(jax.tree.map, lambda leaf: leaf.mean(0))
    return losses.mean(), aux._replace(
        metric=aux.metric.mean(),
        support_moments=mean(aux.support_moments),
        query_moments=mean(aux.query_moments),
    )


def map_tasks(function: Callable[[Episode], Any], episodes: Episode) -> Any:
    """`vmap` over tasks; a single task runs unbatched, which compiles to plain matrix products."""
    if episodes.query_images.shape[0] > 1:
        return jax.vmap(function)(episodes)
    result = function(jax.tree.map(lambda leaf: leaf[0], episodes))
    return jax.tree.map(lambda leaf: leaf[None], result)
