"""The outer loop: the meta-loss over a batch of tasks, its gradient, and the optax update."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from mamlpp_jax.algorithms.inner_loop import (
    StepRows,
    adapt,
    cross_entropy,
    query_pass,
    row_at,
    step_rows,
)
from mamlpp_jax.algorithms.inner_optimizers import InnerOptimizer
from mamlpp_jax.distributed.mesh import AXIS, varying
from mamlpp_jax.models.forward import ModelVariables, update_running
from mamlpp_jax.types import (
    Array,
    DrawTasks,
    Episode,
    Forward,
    MetaParams,
    MetaState,
    Moments,
    RunningStats,
)


class Learner(NamedTuple):
    """The static part of the program: what does not change while training.

    Attributes:
        forward: the backbone.
        inner_optimizer: adapts a task's parameters.
        inner_steps: S.
        train_statistics: what normalises in training, one of `inner_loop.STATISTICS`.
        remat: compute inner steps again in the backward pass (`inner_loop.adapt`).
    """

    forward: Forward
    inner_optimizer: InnerOptimizer
    inner_steps: int
    train_statistics: str = "batch"
    remat: bool = False


class LossAux(NamedTuple):
    """By-products of the meta-loss.

    Attributes:
        accuracy: [], query accuracy after the last inner step, mean over tasks.
        logits: [B, M, K], of the query set after the last inner step.
        support_moments: mean over tasks, leaves [S, F].
        query_moments: mean over tasks, leaves [S, F]; [1, F] when only the last step's query loss counts.
    """

    accuracy: Array
    logits: Array
    support_moments: Moments
    query_moments: Moments


class StepMetrics(NamedTuple):
    """What one outer step reports; scalars.

    Attributes:
        loss: the meta-loss before the update.
        accuracy: query accuracy after the last inner step, before the update.
        grad_norm: global L2 norm of the meta-gradient, before any clipping.
        finite: bool, whether every meta-parameter and running statistic is, after the update.
    """

    loss: Array
    accuracy: Array
    grad_norm: Array
    finite: Array


def init_state(
    variables: ModelVariables,
    learner: Learner,
    optimizer: optax.GradientTransformation,
    *,
    per_step_affine: bool,
    per_step_statistics: bool,
) -> MetaState:
    """The state before the first outer step.

    Args:
        variables: a fresh backbone.
        learner: gives the number of inner steps and the inner optimizer.
        optimizer: the outer optimizer.
        per_step_affine: batch-norm scale and bias per inner step (BNWB) or shared.
        per_step_statistics: running statistics per inner step (BNRS) or shared.
    """

    def rows(tree: Any, per_step: bool) -> Any:
        copies = (learner.inner_steps, 1) if per_step else (1,)
        return jax.tree.map(lambda leaf: jnp.tile(leaf, copies), tree)

    meta = MetaParams(
        params=variables.params,
        norm=rows(variables.norm, per_step_affine),
        inner=learner.inner_optimizer.init(variables.params, learner.inner_steps),
    )
    return MetaState(
        step=jnp.zeros((), jnp.int32),
        params=meta.params,
        norm=meta.norm,
        inner=meta.inner,
        batch_stats=rows(variables.batch_stats, per_step_statistics),
        opt_state=optimizer.init(meta),
    )


def task_loss(
    learner: Learner,
    params: Any,
    rows: StepRows,
    episode: Episode,
    weights: Array,
    *,
    order: int,
    multi_step: bool,
) -> tuple[Array, LossAux]:
    """Loss of one task; see `meta_loss`, whose terms have a leading B."""

    def query(theta: Any, row: StepRows) -> tuple[Array, Array, Moments]:
        logits, moments = query_pass(learner.forward, learner.train_statistics, theta, row, episode)
        return cross_entropy(logits, episode.query_labels), logits, lax.stop_gradient(moments)

    theta, trace = adapt(
        learner.forward,
        learner.inner_optimizer,
        params,
        rows,
        episode,
        order=order,
        statistics=learner.train_statistics,
        after_step=query if multi_step else None,
        remat=learner.remat,
    )
    if multi_step:
        losses, all_logits, query_moments = trace.after
        loss, logits = jnp.sum(weights * losses), all_logits[-1]
    else:
        loss, logits, moments = query(theta, row_at(rows, -1))
        query_moments = jax.tree.map(lambda leaf: leaf[None], moments)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == episode.query_labels)
    return loss, LossAux(accuracy, logits, trace.support_moments, query_moments)


def meta_loss(
    learner: Learner,
    meta: MetaParams,
    batch_stats: RunningStats,
    episodes: Episode,
    weights: Array,
    *,
    order: int = 2,
    multi_step: bool = True,
) -> tuple[Array, LossAux]:
    """The loss that the outer loop minimises, mean over a batch of tasks.

    ``sum_i weights[i] * L_query(theta_{i+1}, row i)`` when `multi_step` (equation 4 of the paper),
    ``L_query(theta_S, row S-1)`` otherwise (equation 2); the other terms are then not computed.

    Args:
        learner: the static part.
        meta: what is learned; norm leaves [S, F] or [F].
        batch_stats: running statistics; they matter only to `train_statistics="running"`.
        episodes: leaves with a leading B.
        weights: [S], read only when `multi_step`.
        order: 1 or 2, see `inner_loop.adapt`.
        multi_step: whether every inner step's query loss counts.

    Returns:
        The loss, a scalar, and its by-products.
    """
    rows = step_rows(meta.norm, meta.inner, batch_stats, learner.inner_steps)
    one_task = partial(
        task_loss, learner, meta.params, rows, weights=weights, order=order, multi_step=multi_step
    )
    losses, aux = _map_tasks(one_task, episodes)
    mean = partial(jax.tree.map, lambda leaf: leaf.mean(0))
    return losses.mean(), LossAux(
        aux.accuracy.mean(), aux.logits, mean(aux.support_moments), mean(aux.query_moments)
    )


def _map_tasks(function: Callable[[Episode], Any], episodes: Episode) -> Any:
    """`vmap` over tasks; a single task runs unbatched, which compiles to plain matrix products."""
    if episodes.query_labels.shape[0] > 1:
        return jax.vmap(function)(episodes)
    result = function(jax.tree.map(lambda leaf: leaf[0], episodes))
    return jax.tree.map(lambda leaf: leaf[None], result)


def fold_moments(running: RunningStats, support: Moments, query: Moments) -> RunningStats:
    """Updates the running statistics by one outer step's passes, in the order they happened.

    Row i takes the support pass and then the query pass of inner step i. Shared statistics [F] take the
    passes of all steps one after another. Without the multi-step loss only the last step has a query pass.

    Args:
        running: leaves [S, F] or [F].
        support: leaves [S, F].
        query: leaves [S, F] or [1, F].
    """
    steps = jax.tree.leaves(support)[0].shape[0]
    first_query = steps - jax.tree.leaves(query)[0].shape[0]
    shared = jax.tree.leaves(running)[0].ndim == 1
    rows = []
    for i in range(steps):
        row = running if shared else jax.tree.map(lambda leaf, i=i: leaf[i], running)
        row = update_running(row, jax.tree.map(lambda leaf, i=i: leaf[i], support))
        if i >= first_query:
            row = update_running(row, jax.tree.map(lambda leaf, i=i: leaf[i - first_query], query))
        running = row if shared else running
        rows.append(row)
    return running if shared else jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


class _ChunkSums(NamedTuple):
    """What is summed over chunks of tasks: gradients and means, all scaled to one meta-batch."""

    gradient: MetaParams
    loss: Array
    accuracy: Array
    support_moments: Moments
    query_moments: Moments


def meta_gradient(
    learner: Learner,
    meta: MetaParams,
    batch_stats: RunningStats,
    draw: Callable[[Array], Episode],
    task_indices: Array,
    weights: Array,
    *,
    order: int,
    multi_step: bool,
) -> _ChunkSums:
    """Gradient and by-products of the meta-loss, chunk by chunk.

    Differentiating inside the scan (not the scan as a whole) keeps one chunk's residuals alive at a time.

    Args:
        learner: the static part.
        meta: what is differentiated.
        batch_stats: running statistics.
        draw: makes the episodes of the given task indices, [B].
        task_indices: int32 [chunks, tasks per chunk].
        weights: [S].
        order: 1 or 2.
        multi_step: see `meta_loss`.
    """
    gradient_of = jax.value_and_grad(
        lambda meta, episodes: meta_loss(
            learner, meta, batch_stats, episodes, weights, order=order, multi_step=multi_step
        ),
        has_aux=True,
    )

    def chunk(indices: Array) -> _ChunkSums:
        (loss, aux), gradient = gradient_of(meta, draw(indices))
        return _ChunkSums(gradient, loss, aux.accuracy, aux.support_moments, aux.query_moments)

    chunks = task_indices.shape[0]
    if chunks == 1:
        return chunk(task_indices[0])

    def zeros(shape: jax.ShapeDtypeStruct) -> Array:
        # Made from an index, so that inside `shard_map` it differs between devices as the sums do.
        return jnp.broadcast_to(jnp.zeros_like(task_indices[0, 0], shape.dtype), shape.shape)

    total, _ = lax.scan(
        lambda sums, indices: (jax.tree.map(jnp.add, sums, chunk(indices)), None),
        jax.tree.map(zeros, jax.eval_shape(chunk, task_indices[0])),
        task_indices,
    )
    return jax.tree.map(lambda leaf: leaf / chunks, total)


TrainStep = Callable[..., tuple[MetaState, StepMetrics]]


def make_train_step(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    draw: DrawTasks,
    *,
    tasks_per_step: int,
    tasks_per_chunk: int | None = None,
    mesh: Mesh | None = None,
) -> TrainStep:
    """Builds the outer step, a pure function to be jitted.

    Args:
        learner: the static part.
        optimizer: over `MetaParams`; its learning rate may be an optax schedule.
        draw: ``draw(source, step, task_indices) -> Episode``; a task depends on its global index
            alone, so that results do not depend on devices or chunks.
        tasks_per_step: B, the meta-batch.
        tasks_per_chunk: tasks computed together, a divisor of the tasks per device; all by default.
        mesh: a one-axis mesh (`parallel.make_mesh`) over which tasks are sharded; None for one device.

    Returns:
        ``train_step(state, source, weights, *, order, multi_step) -> (state, StepMetrics)``.

    Raises:
        ValueError: B does not divide over the devices, or a device's tasks over chunks.
    """
    devices = mesh.size if mesh is not None else 1
    per_device, rest = divmod(tasks_per_step, devices)
    if rest:
        raise ValueError(f"{tasks_per_step} tasks do not divide over {devices} devices")
    chunk = tasks_per_chunk or per_device
    if per_device % chunk:
        raise ValueError(f"tasks_per_chunk={chunk} does not divide {per_device} tasks per device")
    indices = jnp.arange(tasks_per_step, dtype=jnp.int32).reshape(-1, chunk)

    def device_sums(
        state: MetaState,
        source: Any,
        indices: Array,
        weights: Array,
        *,
        order: int,
        multi_step: bool,
    ) -> _ChunkSums:
        return meta_gradient(
            learner,
            state.meta,
            state.batch_stats,
            partial(draw, source, state.step),
            indices,
            weights,
            order=order,
            multi_step=multi_step,
        )

    def train_step(
        state: MetaState, source: Any, weights: Array, *, order: int, multi_step: bool
    ) -> tuple[MetaState, StepMetrics]:
        sums = _over_devices(partial(device_sums, order=order, multi_step=multi_step), mesh)(
            state, source, indices, weights
        )
        updates, opt_state = optimizer.update(sums.gradient, state.opt_state, state.meta)
        meta = optax.apply_updates(state.meta, updates)
        new_state = MetaState(
            step=state.step + 1,
            params=meta.params,
            norm=meta.norm,
            inner=meta.inner,
            batch_stats=fold_moments(state.batch_stats, sums.support_moments, sums.query_moments),
            opt_state=opt_state,
        )
        finite = _all_finite((meta, new_state.batch_stats))
        return new_state, StepMetrics(
            sums.loss, sums.accuracy, optax.tree.norm(sums.gradient), finite
        )

    return train_step


def _all_finite(tree: Any) -> Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _over_devices(
    device_sums: Callable[..., _ChunkSums], mesh: Mesh | None
) -> Callable[..., _ChunkSums]:
    """Runs `device_sums` on every device's share of the task indices and averages."""
    if mesh is None:
        return device_sums
    everywhere = PartitionSpec()

    def on_device(state: MetaState, source: Any, indices: Array, weights: Array) -> _ChunkSums:
        state, weights = varying((state, weights))
        return lax.pmean(device_sums(state, source, indices, weights), AXIS)

    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(everywhere, everywhere, PartitionSpec(AXIS), everywhere),
        out_specs=everywhere,
    )


def scan_steps(train_step: TrainStep, num_steps: int) -> TrainStep:
    """Several outer steps in one dispatch; metrics get a leading axis of `num_steps`."""

    def steps(
        state: MetaState, source: Any, weights: Array, *, order: int, multi_step: bool
    ) -> tuple[MetaState, StepMetrics]:
        def body(state: MetaState, _: None) -> tuple[MetaState, StepMetrics]:
            return train_step(state, source, weights, order=order, multi_step=multi_step)

        return lax.scan(body, state, None, length=num_steps)

    return steps


def fixed_tasks(episodes: Episode, step: Array, task_indices: Array) -> Episode:
    """A `DrawTasks` whose source is a ready meta-batch: the same tasks in every step."""
    del step
    return jax.tree.map(lambda leaf: leaf[task_indices], episodes)
