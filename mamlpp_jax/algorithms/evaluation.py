"""Evaluation on fixed tasks: predictions after every inner step, or after the last one alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from mamlpp_jax.algorithms.fixed_body import on_features
from mamlpp_jax.algorithms.inner_loop import adapt, query_pass
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.meta_loss import map_tasks
from mamlpp_jax.algorithms.metrics import Predictions
from mamlpp_jax.algorithms.per_step import PerStep, at_step, lay_out
from mamlpp_jax.distributed.mesh import AXIS, gather_to_host, mark_varying, shard_tasks
from mamlpp_jax.types import Array, Episode, MetaParams, Params, RunningStats, SampleTasks


class TaskBlocks(Protocol):
    """Where the tasks to evaluate on come from; `mamlpp_jax.data.pipeline.TaskStream` is one."""

    def blocks(
        self, task_indices: np.ndarray, devices: int
    ) -> Generator[tuple[Any, np.ndarray], None, None]:
        """Yields sources and the task indices [chunks, tasks per chunk] to sample from each.

        Args:
            task_indices: int32 [chunks, tasks per chunk]; blocks are slices of it.
            devices: the number of chunks of a block is a multiple of it.
        """


def task_logits(
    learner: Learner, params: Params, per_step: PerStep, episode: Episode, *, every_step: bool
) -> Array:
    """Query logits of one task after 0..S inner steps, [S + 1, M, K]; [1, M, K] after the last one.

    "After 0 steps" is theta_0 with entry 0; theta_{i+1} goes with entry i, as in training.
    """
    learner, episode = on_features(learner, params, per_step, episode)

    def query(theta: Params, step: PerStep) -> Array:
        return query_pass(learner, theta, step, episode)[0]

    theta, trace = adapt(
        learner, params, per_step, episode, order=1, after_step=query if every_step else None
    )
    if not every_step:
        return query(theta, at_step(per_step, -1))[None]
    return jnp.concatenate([query(params, at_step(per_step, 0))[None], trace.after])


Evaluator = Callable[[MetaParams, RunningStats, TaskBlocks], Predictions]


def make_evaluator(
    learner: Learner,
    sample_tasks: SampleTasks,
    *,
    tasks: int,
    tasks_per_chunk: int,
    mesh: Mesh,
    every_step: bool = True,
) -> Evaluator:
    """Builds a function that predicts the same `tasks` tasks with any model.

    Args:
        learner: the static part; its `bn_mode` and `inner_steps` may differ from training
            (`per_step.lay_out`).
        sample_tasks: samples tasks from a source; the tasks 0..tasks-1 of step 0 are used.
        tasks: T.
        tasks_per_chunk: tasks computed together on a device.
        mesh: tasks are sharded over it.
        every_step: predictions after 0..S inner steps, which costs a query pass each; False for the last alone.
    """
    share = tasks_per_chunk * mesh.size
    padded = math.ceil(tasks / share) * share
    task_indices = np.arange(padded, dtype=np.int32).reshape(-1, tasks_per_chunk)
    predict = _compiled(learner, sample_tasks, mesh, every_step)

    def evaluate(meta: MetaParams, batch_stats: RunningStats, stream: TaskBlocks) -> Predictions:
        with contextlib.closing(stream.blocks(task_indices, mesh.size)) as blocks:
            parts = [
                gather_to_host(predict(meta, batch_stats, source, shard_tasks(indices, mesh)))
                for source, indices in blocks
            ]
        logits, labels = (np.concatenate(leaves) for leaves in zip(*parts, strict=True))
        return Predictions(
            logits.reshape(-1, *logits.shape[2:])[:tasks],
            labels.reshape(-1, labels.shape[-1])[:tasks],
        )

    return evaluate


def _compiled(
    learner: Learner, sample_tasks: SampleTasks, mesh: Mesh, every_step: bool
) -> Callable[..., tuple[Array, Array]]:
    """Logits and labels of chunks of tasks, both with leading axes [chunks, tasks per chunk]."""
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
    ) -> tuple[Array, Array]:
        meta, batch_stats = mark_varying((meta, batch_stats))
        per_step = lay_out(learner, meta, batch_stats)
        start = learner.start(meta.params)
        one_task = partial(task_logits, learner, start, per_step, every_step=every_step)

        def chunk(indices: Array) -> tuple[Array, Array]:
            episodes = sample_tasks(source, jnp.zeros((), jnp.int32), indices)
            return map_tasks(one_task, episodes).astype(jnp.float32), episodes.query_labels

        return lax.map(chunk, task_indices)

    return predict
