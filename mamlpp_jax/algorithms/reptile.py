"""Reptile: an outer update towards where the inner loop arrived, without a query loss and second derivatives."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mamlpp_jax.algorithms.inner_loop import adapt, query_pass
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.meta_loss import map_tasks
from mamlpp_jax.algorithms.noise import with_step_keys
from mamlpp_jax.algorithms.outer_loop import OuterGradient
from mamlpp_jax.algorithms.per_step import PerStep, at_step, lay_out
from mamlpp_jax.types import (
    Array,
    Episode,
    MetaParams,
    Moments,
    NormParams,
    Params,
    RunningStats,
    StepPlan,
)


def reptile_gradient(
    learner: Learner,
    meta: MetaParams,
    batch_stats: RunningStats,
    episodes: Episode,
    plan: StepPlan,
) -> OuterGradient:
    """The direction ``theta_0 - theta_S``, mean over tasks, in the place of a gradient; see `make_train_step`.

    The inner loop takes its `minibatches` from the support and the query set. Scale and bias of batch norm, which it
    does not change, descend its mean loss in first order. What an inner optimizer learns is left as it is: there is
    no loss after adaptation to learn it from.

    Args:
        learner: the static part.
        meta: what is learned.
        batch_stats: running statistics; read by the modes `running` and `renorm` alone.
        episodes: leaves with a leading B.
        plan: its hand-over alone is read.

    Returns:
        The direction, with the mean loss of the inner steps, and the metric of the query set after the last of them,
        which has seen the query set too.

    References:
        Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, batched version; the direction goes
        through the outer optimizer, as the paper proposes for Adam.
    """
    start, to_meta = jax.vjp(learner.start, meta.params)

    def mean_loss(norm: NormParams) -> tuple[Array, tuple[Params, _Reported]]:
        per_step = lay_out(learner, meta._replace(norm=norm), batch_stats, plan.hand_over)
        theta, of_tasks = map_tasks(partial(_one_task, learner, start, per_step), episodes)
        mean = jax.tree.map(lambda leaf: leaf.mean(0), of_tasks)
        moved = jax.tree.map(lambda first, last: first - last.mean(0), start, theta)
        return mean.loss, (moved, mean)

    (_, (moved, mean)), norm_gradient = jax.value_and_grad(mean_loss, has_aux=True)(meta.norm)
    (direction,) = to_meta(moved)
    gradient = MetaParams(direction, norm_gradient, jax.tree.map(jnp.zeros_like, meta.inner))
    return OuterGradient(gradient, *mean)


class _Reported(NamedTuple):
    """The rest of an `OuterGradient`, of one task."""

    loss: Array
    metric: Array
    support_moments: Moments
    query_moments: Moments


def _one_task(
    learner: Learner, start: Params, per_step: PerStep, episode: Episode
) -> tuple[Params, _Reported]:
    """theta_S of a task, and what it reports."""
    per_step = with_step_keys(per_step, episode, learner.inner_steps)
    batches = minibatches(episode, learner.inner_steps)
    theta, trace = adapt(learner, start, per_step, episode, order=1, minibatches=batches)
    outputs, moments = query_pass(learner, theta, at_step(per_step, -1), episode)
    return theta, _Reported(
        loss=trace.support_loss.mean(),
        metric=learner.metric(outputs, episode.query_labels),
        support_moments=trace.support_moments,
        query_moments=jax.tree.map(lambda leaf: leaf[None], moments),
    )


def minibatches(episode: Episode, num_steps: int) -> tuple[Array, Array]:
    """The images and labels of each inner step, [S, N, ...]: different ones for steps that follow each other.

    Support and query set are one set of N + M images here, of which each step takes the next N, starting over at the
    end. They are ordered by their number within their class, so that N images have as many of one class as of another.
    """
    images, labels = (
        jnp.concatenate(pair)
        for pair in (
            (episode.support_images, episode.query_images),
            (episode.support_labels, episode.query_labels),
        )
    )
    total, taken = len(images), len(episode.support_images)
    places = jnp.arange(total)
    earlier = places < places[:, None]
    number = jnp.sum((labels == labels[:, None]) & earlier, axis=1)
    before = (number < number[:, None]) | ((number == number[:, None]) & earlier)
    order = jnp.argmax(before.sum(1) == places[:, None], axis=1)
    chosen = order[(jnp.arange(num_steps)[:, None] * taken + jnp.arange(taken)) % total]
    return images[chosen], labels[chosen]
