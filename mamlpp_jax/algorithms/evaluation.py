"""Evaluation on fixed tasks: accuracy after every inner step, ensembles, confidence intervals."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from mamlpp_jax.algorithms.inner_loop import StepRows, adapt, query_pass, row_at, step_rows
from mamlpp_jax.algorithms.outer_loop import Learner
from mamlpp_jax.data.host_episodes import BATCH_BYTES, HostSource, prefetched
from mamlpp_jax.distributed.mesh import (
    AXIS,
    fetch,
    largest_divisor,
    replicate,
    shard_tasks,
    varying,
)
from mamlpp_jax.types import Array, DrawTasks, Episode, MetaParams, Params, RunningStats

HEAD = "linear"
_Z95 = 1.96


class Predictions(NamedTuple):
    """What a model answers on T tasks.

    Attributes:
        logits: float32 [T, S + 1, M, K], of the query set after 0..S inner steps.
        labels: int32 [T, M].
    """

    logits: np.ndarray
    labels: np.ndarray


class Scores(NamedTuple):
    """Accuracy over tasks, as fractions.

    Attributes:
        accuracy: after the last inner step, mean over tasks.
        ci95: half-width of the 95 % interval over tasks (normal approximation).
        loss: mean cross-entropy after the last inner step.
        accuracy_per_step: after 0..S inner steps.
    """

    accuracy: float
    ci95: float
    loss: float
    accuracy_per_step: list[float]


def task_logits(
    learner: Learner, statistics: str, params: Params, rows: StepRows, episode: Episode
) -> Array:
    """Query logits of one task after 0..S inner steps, [S + 1, M, K].

    "After 0 steps" is theta_0 with row 0; theta_{i+1} goes with row i, as in training.
    """

    def query(theta: Params, row: StepRows) -> Array:
        logits, _ = query_pass(learner.forward, statistics, theta, row, episode)
        return logits

    before = query(params, row_at(rows, 0))
    _, trace = adapt(
        learner.forward,
        learner.inner_optimizer,
        params,
        rows,
        episode,
        order=1,
        statistics=statistics,
        after_step=query,
    )
    return jnp.concatenate([before[None], trace.after])


Evaluator = Callable[[MetaParams, RunningStats, Any], Predictions]


def make_evaluator(
    learner: Learner,
    draw: DrawTasks,
    *,
    statistics: str,
    inner_steps: int,
    tasks: int,
    tasks_per_chunk: int,
    mesh: Mesh,
) -> Evaluator:
    """Builds a function that answers the same `tasks` tasks for any model.

    Args:
        learner: the static part.
        draw: draws tasks from the source; the tasks 0..tasks-1 of step 0 are used.
        statistics: what normalises, one of `inner_loop.STATISTICS`.
        inner_steps: S, may differ from training (`inner_loop.step_rows`).
        tasks: T.
        tasks_per_chunk: tasks computed together on a device.
        mesh: tasks are sharded over it.
    """
    share = tasks_per_chunk * mesh.size
    padded = math.ceil(tasks / share) * share
    indices = np.arange(padded, dtype=np.int32).reshape(-1, tasks_per_chunk)
    everywhere, sharded = PartitionSpec(), PartitionSpec(AXIS)

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(everywhere, everywhere, everywhere, sharded),
        out_specs=sharded,
    )
    def run(
        meta: MetaParams, batch_stats: RunningStats, source: Any, indices: Array
    ) -> tuple[Array, Array]:
        meta, batch_stats = varying((meta, batch_stats))
        rows = step_rows(meta.norm, meta.inner, batch_stats, inner_steps)
        one_task = partial(task_logits, learner, statistics, meta.params, rows)

        def chunk(indices: Array) -> tuple[Array, Array]:
            episodes = draw(source, jnp.zeros((), jnp.int32), indices)
            if tasks_per_chunk == 1:
                logits = one_task(jax.tree.map(lambda leaf: leaf[0], episodes))[None]
            else:
                logits = jax.vmap(one_task)(episodes)
            return logits.astype(jnp.float32), episodes.query_labels

        return lax.map(chunk, indices)

    def evaluate(meta: MetaParams, batch_stats: RunningStats, source: Any) -> Predictions:
        with contextlib.closing(_blocks(source, indices, mesh.size)) as blocks:
            parts = [
                fetch(run(meta, batch_stats, replicate(part, mesh), shard_tasks(rows, mesh)))
                for part, rows in blocks
            ]
        logits, labels = (np.concatenate(leaves) for leaves in zip(*parts, strict=True))
        return Predictions(
            logits.reshape(-1, *logits.shape[2:])[:tasks],
            labels.reshape(-1, labels.shape[-1])[:tasks],
        )

    return evaluate


def _blocks(
    source: Any, indices: np.ndarray, devices: int
) -> Generator[tuple[Any, np.ndarray], None, None]:
    """Sources and the task indices [chunks, tasks per chunk] to draw from each.

    Data on the device need one block; tasks that the host assembles come in blocks of a limited size, alike so
    that one compiled function takes them all, each prepared while the one before is computed.
    """
    if not isinstance(source, HostSource):
        yield source, indices
        return
    shares = len(indices) // devices
    share_bytes = devices * indices.shape[1] * source.task_bytes
    rows = devices * largest_divisor(shares, BATCH_BYTES // share_bytes)

    def prepare(block: np.ndarray) -> tuple[Any, np.ndarray]:
        tasks = range(int(block[0, 0]), int(block[-1, -1]) + 1)
        return source.batch(range(1), tasks), block

    yield from prefetched(prepare, np.split(indices, len(indices) // rows))


def ensemble(predictions: Sequence[Predictions]) -> Predictions:
    """Averages the logits of several models on the same tasks (section 5 of the paper)."""
    logits = np.stack([p.logits for p in predictions]).mean(axis=0, dtype=np.float64)
    return Predictions(logits, predictions[0].labels)


def score(predictions: Predictions) -> Scores:
    """Accuracy, its interval over tasks, and loss."""
    logits, labels = predictions.logits.astype(np.float64), predictions.labels
    right = (logits.argmax(-1) == labels[:, None]).mean(-1)  # [T, S + 1]
    last = right[:, -1]
    ci95 = _Z95 * float(last.std(ddof=1)) / math.sqrt(len(last))
    return Scores(float(last.mean()), ci95, _loss(logits[:, -1], labels), right.mean(0).tolist())


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy of logits [T, M, K] and labels [T, M]."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_partition = np.log(np.exp(shifted).sum(-1))
    chosen = np.take_along_axis(shifted, labels[..., None], axis=-1)[..., 0]
    return float((log_partition - chosen).mean())


def with_ways(meta: MetaParams, ways: int) -> MetaParams:
    """A model for another number of classes than it was trained with.

    Fewer classes use the first columns of the head; more give each extra column the mean of the trained ones.

    Args:
        meta: with a head `linear` of kernel [D, K] and bias [K].
        ways: wanted K.
    """

    def fit(leaf: Array) -> Array:
        extra = ways - leaf.shape[-1]
        if extra <= 0:
            return leaf[..., :ways]
        mean = jnp.repeat(leaf.mean(-1, keepdims=True), extra, axis=-1)
        return jnp.concatenate([leaf, mean], axis=-1)

    return meta._replace(params={**meta.params, HEAD: jax.tree.map(fit, meta.params[HEAD])})
