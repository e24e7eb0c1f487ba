"""Evaluation on fixed tasks: predictions after every inner step, or after the last one alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
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


# Modes that differ in what normalises the query set alone, so that one inner loop serves them.
_SAME_INNER_LOOP = frozenset({"batch", "support"})


def task_logits(
    learner: Learner, params: Params, per_step: PerStep, episode: Episode, *, every_step: bool
) -> Array:
    """Query logits of one task after 0..S inner steps, [S + 1, M, K]; [1, M, K] after the last one.

    "After 0 steps" is theta_0 with entry 0; theta_{i+1} goes with entry i, as in training.
    """
    return _logits_of_modes([learner], params, per_step, episode, every_step=every_step)[0]


def _logits_of_modes(
    learners: Sequence[Learner],
    params: Params,
    per_step: PerStep,
    episode: Episode,
    *,
    every_step: bool,
) -> Array:
    """As `task_logits`, of learners whose inner loops are the same, with a leading axis of learners."""
    prepared = [on_features(learner, params, per_step, episode) for learner in learners]

    def query(theta: Params, step: PerStep) -> Array:
        return jnp.stack([query_pass(learner, theta, step, task)[0] for learner, task in prepared])

    learner, task = prepared[0]
    after_step = query if every_step else None
    theta, trace = adapt(
        learner, params, per_step, task, order=1, after_step=after_step, differentiated=False
    )
    if not every_step:
        return query(theta, at_step(per_step, -1))[:, None]
    first = query(params, at_step(per_step, 0))
    return jnp.concatenate([first[:, None], jnp.moveaxis(trace.after, 0, 1)], axis=1)


Evaluator = Callable[[MetaParams, RunningStats, TaskBlocks], dict[str, Predictions]]


def make_evaluator(
    learner: Learner,
    sample_tasks: SampleTasks,
    modes: Sequence[str],
    *,
    tasks: int,
    tasks_per_chunk: int,
    mesh: Mesh,
    every_step: bool = True,
) -> Evaluator:
    """Builds a function that predicts the same `tasks` tasks with any model, under one statistics mode or several.

    Args:
        learner: the static part; its `inner_steps` may differ from training (`per_step.lay_out`).
        sample_tasks: samples tasks from a source; the tasks 0..tasks-1 of step 0 are used.
        modes: of `learner.BN_MODES`, the keys of the result. A task is adapted to once for `batch` and `support`.
        tasks: T.
        tasks_per_chunk: tasks computed together on a device.
        mesh: tasks are sharded over it.
        every_step: predictions after 0..S inner steps, which costs a query pass each; False for the last alone.
    """
    share = tasks_per_chunk * mesh.size
    padded = math.ceil(tasks / share) * share
    task_indices = np.arange(padded, dtype=np.int32).reshape(-1, tasks_per_chunk)
    predict = _compiled(_group(learner, modes), sample_tasks, mesh, every_step)

    def evaluate(
        meta: MetaParams, batch_stats: RunningStats, stream: TaskBlocks
    ) -> dict[str, Predictions]:
        with contextlib.closing(stream.blocks(task_indices, mesh.size)) as blocks:
            parts = [
                gather_to_host(predict(meta, batch_stats, source, shard_tasks(indices, mesh)))
                for source, indices in blocks
            ]
        logits, labels = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:tasks], *parts)
        return {mode: Predictions(logits[mode], labels) for mode in modes}

    return evaluate


def _group(learner: Learner, modes: Sequence[str]) -> list[list[Learner]]:
    """A learner per mode; those whose inner loops are the same stand together."""
    learners = [learner._replace(bn_mode=mode) for mode in modes]
    shared = [one for one in learners if one.bn_mode in _SAME_INNER_LOOP]
    alone = [[one] for one in learners if one.bn_mode not in _SAME_INNER_LOOP]
    return [shared, *alone] if shared else alone


def _compiled(
    groups: list[list[Learner]], sample_tasks: SampleTasks, mesh: Mesh, every_step: bool
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
            found: dict[str, Array] = {}
            for learners in groups:
                per_step = lay_out(learners[0], meta, batch_stats)
                start = learners[0].start(meta.params)
                logits = _logits_of_modes(
                    learners, start, per_step, episode, every_step=every_step
                ).astype(jnp.float32)
                found |= {one.bn_mode: of for one, of in zip(learners, logits, strict=True)}
            return found

        def chunk(indices: Array) -> tuple[dict[str, Array], Array]:
            episodes = sample_tasks(source, jnp.zeros((), jnp.int32), indices)
            return map_tasks(one_task, episodes), episodes.query_labels

        found = lax.map(chunk, task_indices)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)

    return predict
