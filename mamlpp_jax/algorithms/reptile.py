"""Reptile: an outer update towards where the inner loop arrived, without a query loss and second derivatives."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.meta_loss import map_tasks
from mamlpp_jax.algorithms.outer_loop import OuterGradient
from mamlpp_jax.algorithms.task import adapt_to, at_step, make_task
from mamlpp_jax.types import (
    Array,
    Batch,
    Episode,
    MetaParams,
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
    does not change, descend its mean loss in first order. The learned parts of inner optimizer and
    inner loss stay as they are: there is no loss after adaptation to learn them from.

    Args:
        learner: the static part.
        meta: meta-parameters.
        batch_stats: running statistics; read by modes with `reads_running` alone.
        episodes: leaves with a leading B.
        plan: its `anneal` alone is read.

    Returns:
        The direction, with the mean loss of the inner steps, and the metric of the query set after the last of them,
        which has seen the query set too.

    References:
        Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018, batched version; the direction goes
        through the outer optimizer, as the paper proposes for Adam.

    Example:
        >>> step = maml.make_train_step(
        ...     learner,
        ...     optimizer,
        ...     maml.fixed_tasks,
        ...     tasks_per_step=8,
        ...     gradient_function=maml.reptile_gradient,
        ... )
        >>> bool(step(state, episodes, maml.StepPlan(order=1))[1].finite)
        True
    """

    def mean_loss(norm: NormParams) -> tuple[Array, OuterGradient]:
        one_task = partial(_one_task, learner, meta._replace(norm=norm), batch_stats, plan)
        mean = jax.tree.map(lambda leaf: leaf.mean(0), map_tasks(one_task, episodes))
        return mean.loss, mean

    norm_gradient, mean = jax.grad(mean_loss, has_aux=True)(meta.norm)
    return mean._replace(gradient=mean.gradient._replace(norm=norm_gradient))


def _one_task(
    learner: Learner, meta: MetaParams, batch_stats: RunningStats, plan: StepPlan, episode: Episode
) -> OuterGradient:
    """The contribution of a task, but for the gradient of scale and bias."""
    batches = minibatches(episode, learner.inner_steps)
    task = make_task(learner, meta, batch_stats, episode, plan.anneal, batches)
    last, trace = adapt_to(learner, task, order=1)
    outputs, moments = task.query(last, at_step(task.per_step, -1))

    def theta(params: Params) -> Params:
        return make_task(learner, meta._replace(params=params), batch_stats, episode).theta

    # Takes the direction of theta_0 back to the parameters that it is made of.
    moved = jax.tree.map(jnp.subtract, task.theta, last)
    (direction,) = jax.vjp(theta, meta.params)[1](moved)
    return OuterGradient(
        gradient=jax.tree.map(jnp.zeros_like, meta)._replace(params=direction),
        loss=trace.loss.mean(),
        metric=learner.metric(outputs, episode.query.targets),
        support_moments=trace.aux,
        query_moments=jax.tree.map(lambda leaf: leaf[None], moments),
    )


def minibatches(episode: Episode, num_steps: int) -> Batch:
    """The examples of each inner step, leaves [S, N, ...]: different ones for steps that follow each other.

    Support and query set are one set of N + M examples here, of which each step takes the next N, starting over at
    the end. Labels, [N] and [M], order them by their number within their class, so that N examples have as many of one
    class as of another; with other targets the support set comes first.
    """
    both = jax.tree.map(lambda *pair: jnp.concatenate(pair), episode.support, episode.query)
    taken = jax.tree.leaves(episode.support)[0].shape[0]
    total = jax.tree.leaves(both)[0].shape[0]
    order = _by_number_in_class(both.targets) if _are_labels(both.targets) else jnp.arange(total)
    chosen = order[(jnp.arange(num_steps)[:, None] * taken + jnp.arange(taken)) % total]
    return jax.tree.map(lambda leaf: leaf[chosen], both)


def _are_labels(targets: object) -> bool:
    return (
        isinstance(targets, jax.Array)
        and targets.ndim == 1
        and jnp.issubdtype(targets.dtype, jnp.integer)
    )


def _by_number_in_class(labels: Array) -> Array:
    """Indices that put the first example of every class before the second ones, and so on."""
    places = jnp.arange(len(labels))
    earlier = places < places[:, None]
    number = jnp.sum((labels == labels[:, None]) & earlier, axis=1)
    before = (number < number[:, None]) | ((number == number[:, None]) & earlier)
    return jnp.argmax(before.sum(1) == places[:, None], axis=1)
