"""Evaluation on fixed tasks: predictions after every inner step, or after the last one alone."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.losses import term_of_queries
from mamlpp_jax.algorithms.meta_loss import map_tasks
from mamlpp_jax.algorithms.metrics import Predictions
from mamlpp_jax.algorithms.task import PerStep, adapt_to, at_step, make_task
from mamlpp_jax.distributed.mesh import AXIS, gather_to_host, mark_varying, shard_tasks
from mamlpp_jax.statistics import Statistics, find_statistics
from mamlpp_jax.types import Array, Episode, MetaParams, Params, RunningStats, SampleTasks


class TaskSlices(Protocol):
    """Where the tasks to evaluate on come from; `mamlpp_jax.data.pipeline.TaskStream` is one."""

    def slices(
        self, task_indices: np.ndarray, devices: int
    ) -> Generator[tuple[Any, np.ndarray], None, None]:
        """Yields sources and the task indices [chunks, tasks per chunk] to sample from each: slices of `task_indices`.

        The number of chunks of a slice is a multiple of `devices`.
        """


def task_logits(
    learner: Learner,
    meta: MetaParams,
    batch_stats: RunningStats,
    episode: Episode,
    modes: Sequence[Statistics | str] = (),
    *,
    every_step: bool,
) -> Array:
    """Query logits of one task after 0..S inner steps under statistics modes, [modes, S + 1, M, K].

    "After 0 steps" is theta_0 with entry 0; theta_{i+1} goes with entry i, as in training. The modes, () for the
    learner's, differ only in how queries are normalised. Without `every_step` there are the logits after the last step
    alone, [modes, 1, M, K].
    """
    learners = [dataclasses.replace(learner, statistics=m) for m in modes or (learner.mode,)]
    tasks = [make_task(one, meta, batch_stats, episode) for one in learners]

    def query(theta: Params, step: PerStep) -> Array:
        return jnp.stack([task.query(theta, step)[0] for task in tasks])

    after_step = query if every_step else None
    task = tasks[0]
    theta, trace = adapt_to(learners[0], task, order=1, after_step=after_step, unroll=1)
    if not every_step:
        return query(theta, at_step(task.per_step, -1))[:, None]
    first = query(task.theta, at_step(task.per_step, 0))
    return jnp.concatenate([first[:, None], jnp.moveaxis(trace.after, 0, 1)], axis=1)


# As `task_logits`.
TaskPredictor = Callable[..., Array]


class Evaluator(Protocol):
    """Predicts fixed tasks."""

    def __call__(
        self,
        meta: MetaParams,
        batch_stats: RunningStats,
        stream: TaskSlices,
        report: Callable[[float], None] = lambda share: None,
    ) -> dict[str, Predictions]:
        """The predictions by statistics mode; `report` is called with the share of the tasks that are done."""


def make_evaluator(
    learner: Learner,
    sample_tasks: SampleTasks,
    modes: Sequence[str],
    *,
    tasks: int,
    tasks_per_chunk: int,
    mesh: Mesh,
    every_step: bool = True,
    predict: TaskPredictor = task_logits,
) -> Evaluator:
    """Builds a function that predicts the same `tasks` tasks with any model, under one statistics mode or several.

    Args:
        learner: the static part; its `inner_steps` may differ from training (`task.per_step_values`).
        sample_tasks: samples tasks from a source; the tasks 0..tasks-1 of step 0 are used.
        modes: names in `mamlpp_jax.statistics`, the keys of the result. Modes that share an inner loop (`batch` and
            `support`) adapt to a task once.
        tasks: T.
        tasks_per_chunk: tasks computed together on a device.
        mesh: tasks are sharded over it.
        every_step: predictions after 0..S inner steps, which costs a query pass each; False for the last alone.
        predict: how a task is predicted; by default by adapting to it.
    """
    share = tasks_per_chunk * mesh.size
    padded = math.ceil(tasks / share) * share
    task_indices = np.arange(padded, dtype=np.int32).reshape(-1, tasks_per_chunk)
    groups: dict[Any, list[Statistics]] = {}
    for mode in map(find_statistics, modes):
        alike = mode.name if term_of_queries(learner.inner_loss) else mode.inner_loop
        groups.setdefault(alike, []).append(mode)
    one_task = partial(predict, learner, every_step=every_step)
    jitted = _jitted(one_task, list(groups.values()), sample_tasks, mesh)

    def evaluate(
        meta: MetaParams,
        batch_stats: RunningStats,
        stream: TaskSlices,
        report: Callable[[float], None] = lambda share: None,
    ) -> dict[str, Predictions]:
        parts = []
        with contextlib.closing(stream.slices(task_indices, mesh.size)) as slices:
            for source, indices in slices:
                shard = shard_tasks(indices, mesh)
                parts.append(gather_to_host(jitted(meta, batch_stats, source, shard)))
                report((indices[-1, -1] + 1) / padded)
        logits, labels = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:tasks], *parts)
        return {mode: Predictions(logits[mode], labels) for mode in modes}

    return evaluate


def _jitted(
    predict_task: TaskPredictor,
    groups: list[list[Statistics]],
    sample_tasks: SampleTasks,
    mesh: Mesh,
) -> Callable[..., tuple[dict[str, Array], Array]]:
    """Logits by mode, and labels, of chunks of tasks: leading axis [chunks * tasks per chunk]."""
    everywhere, sharded = PartitionSpec(), PartitionSpec(AXIS)

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(everywhere, everywhere, everywhere, sharded),
        out_specs=sharded,
    )
    def predict(
        meta: MetaParams, batch_stats: RunningStats, source: Any, task_indices: Array
    ) -> tuple[dict[str, Array], Array]:
        meta, batch_stats = mark_varying((meta, batch_stats))

        def one_task(episode: Episode) -> dict[str, Array]:
            by_mode: dict[str, Array] = {}
            for modes in groups:
                logits = predict_task(meta, batch_stats, episode, modes).astype(jnp.float32)
                by_mode |= {mode.name: of for mode, of in zip(modes, logits, strict=True)}
            return by_mode

        def chunk(indices: Array) -> tuple[dict[str, Array], Array]:
            episodes = sample_tasks(source, jnp.zeros((), jnp.int32), indices)
            return map_tasks(one_task, episodes), episodes.query.targets

        chunks = lax.map(chunk, task_indices)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), chunks)

    return predict
