"""A supervised stage before meta-learning: the backbone with a linear head on all training classes at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.meta_loss import map_tasks
from mamlpp_jax.algorithms.outer_loop import OuterGradient
from mamlpp_jax.algorithms.task import at_step, features, per_step_values
from mamlpp_jax.statistics import Statistics
from mamlpp_jax.types import Array, Episode, MetaParams, Moments, RunningStats, StepPlan

# Cosines are between -1 and 1; the factor makes logits of them.
_TEMPERATURE = 10.0


def supervised_gradient(
    learner: Learner,
    meta: MetaParams,
    batch_stats: RunningStats,
    episodes: Episode,
    plan: StepPlan,
) -> OuterGradient:
    """The gradient of the query loss at theta_0 itself, mean over tasks, each of which is a batch of examples.

    Each batch is normalised by its own moments, which the running statistics follow. Nothing is adapted, and the
    support set is not read.

    Args:
        learner: the static part; its inner loop is not used.
        meta: meta-parameters.
        batch_stats: running statistics.
        episodes: leaves with a leading B; the query sets are the batches.
        plan: not read.
    """
    del plan

    def mean_loss(meta: MetaParams) -> tuple[Array, tuple[Array, Moments]]:
        norm = at_step(per_step_values(learner, meta, batch_stats), 0).norm

        def one(episode: Episode) -> tuple[Array, Array, Moments]:
            key = {} if episode.key is None else {"key": episode.key}
            outputs, moments = learner.forward(meta.params, norm, episode.query.inputs, None, **key)
            targets = episode.query.targets
            return learner.query_loss(outputs, targets), learner.metric(outputs, targets), moments

        losses, metrics, moments = map_tasks(one, episodes)
        mean = jax.tree.map(lambda leaf: leaf.mean(0)[None], moments)
        return losses.mean(), (metrics.mean(), mean)

    (loss, (metric, moments)), gradient = jax.value_and_grad(mean_loss, has_aux=True)(meta)
    none = jax.tree.map(lambda leaf: leaf[:0], moments)
    return OuterGradient(gradient, loss, metric, moments, none)


def centroid_logits(
    learner: Learner,
    meta: MetaParams,
    batch_stats: RunningStats,
    episode: Episode,
    modes: Sequence[Statistics | str] = (),
    *,
    every_step: bool,
) -> Array:
    """Query logits of one task without adaptation, [modes, 1, M, N]: cosines to each class's mean features.

    Args:
        learner: with a body and a head.
        meta: meta-parameters.
        batch_stats: running statistics.
        episode: the task; labels are 0..K-1.
        modes: statistics that normalise; () for the learner's.
        every_step: not read.

    References:
        Chen, Liu, Xu, Darrell, Wang, "Meta-Baseline", ICCV 2021: nearest centroid by cosine.
    """
    del every_step
    learners = [dataclasses.replace(learner, statistics=m) for m in modes or (learner.mode,)]
    logits = [_cosines(*features(one, meta, batch_stats, episode), episode) for one in learners]
    return jnp.stack(logits)[:, None]


def _cosines(support: Array, query: Array, episode: Episode) -> Array:
    """Logits [M, N] of features [N, D] and [M, D]; there are at most N classes, and absent ones get -inf."""
    member = jax.nn.one_hot(episode.support.targets, support.shape[0]).T
    unit = [
        x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        for x in (member @ support, query)
    ]
    cosines = unit[1] @ unit[0].T
    return jnp.where(member.sum(1) > 0, _TEMPERATURE * cosines, -jnp.inf)
