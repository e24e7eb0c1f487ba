"""The best epochs of a run without a working directory, in memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.types import MetaState


class MemoryCheckpoints:
    """Has the methods of `checkpoints.Checkpoints` that training uses; nothing outlives the process."""

    has_buffered = False

    def __init__(self, num_best: int) -> None:
        self._num_best = num_best
        self._best: list[tuple[float, int, MetaState]] = []
        self._latest: int | None = None

    def latest_step(self) -> int | None:
        """The outer step of the last finished epoch; None before the first."""
        return self._latest

    def buffer(self, state: MetaState, val_accuracy: float) -> None:
        """See `Checkpoints.buffer`."""
        self._latest = int(state.step)
        self._best.append((val_accuracy, self._latest, jax.tree.map(jnp.copy, state)))
        self._best.sort(key=lambda epoch: epoch[:2], reverse=True)
        del self._best[self._num_best :]

    def save(self, state: MetaState | None = None) -> None:
        """Does nothing."""

    def wait(self) -> None:
        """Does nothing."""

    def best_steps(self, count: int) -> list[int]:
        """See `Checkpoints.best_steps`."""
        return [step for _, step, _ in self._best[:count]]

    def restore(self, step: int, like: MetaState) -> MetaState:
        """See `CheckpointReader.restore`."""
        del like
        return next(state for _, known, state in self._best if known == step)

    def lacking(self, lack: str, remedy: str) -> WorkdirError:
        """See `CheckpointReader.lacking`."""
        return WorkdirError(f"{lack}; {remedy}.")
