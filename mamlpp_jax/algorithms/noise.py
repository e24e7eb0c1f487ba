"""Random keys for backbones that drop units in training: one per outer step, task, inner step and pass."""

from __future__ import annotations

from typing import Any

import jax

from mamlpp_jax.algorithms.per_step import PerStep
from mamlpp_jax.types import Array, Episode, SampleTasks

SUPPORT, QUERY, STATISTICS = range(3)  # the passes of an inner step


def with_keys(sample_tasks: SampleTasks, key: Array) -> SampleTasks:
    """Gives every task a key of its own, which depends on `key`, the outer step and its global index alone."""

    def sample(source: Any, step: Array, task_indices: Array) -> Episode:
        of_step = jax.random.fold_in(key, step)
        keys = jax.vmap(lambda index: jax.random.fold_in(of_step, index))(task_indices)
        return sample_tasks(source, step, task_indices)._replace(key=keys)

    return sample


def with_step_keys(per_step: PerStep, episode: Episode, inner_steps: int) -> PerStep:
    """Gives every inner step of one task a key, where the task has one."""
    if episode.key is None:
        return per_step
    return per_step._replace(key=jax.random.split(episode.key, inner_steps))


def key_of_pass(key: Array | None, number: int) -> dict[str, Array]:
    """What the backbone is called with in one pass of an inner step; nothing without a key."""
    return {} if key is None else {"key": jax.random.fold_in(key, number)}
