"""Checkpoints of a run: the latest and the best epochs, through one Orbax manager."""

from __future__ import annotations

import logging as std_logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as managers

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.types import MetaState

_METRIC = "val_accuracy"


class Checkpoints:
    """Saves and restores `MetaState`; the key of a checkpoint is its outer step.

    Checkpoints with a validation accuracy compete to be among the best (ties: the later wins); the latest is
    kept whatever it is.
    """

    def __init__(self, workdir: pathlib.Path, keep_best: int) -> None:
        """Opens the checkpoints of a working directory, which need not exist yet.

        Args:
            workdir: they are in its folder `checkpoints`.
            keep_best: how many of the best to keep.
        """
        self._keep_best = keep_best
        best = managers.BestN(
            get_metric_fn=lambda metrics: metrics[_METRIC],
            n=keep_best,
            keep_checkpoints_without_metrics=False,
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy([best, managers.LatestN(1)]),
            best_fn=lambda metrics: metrics[_METRIC],
        )
        self._manager = ocp.CheckpointManager((workdir / "checkpoints").resolve(), options=options)

    def save(self, state: MetaState, val_accuracy: float | None = None) -> None:
        """Saves in the background.

        Args:
            state: what to save.
            val_accuracy: at the end of an epoch, what ranks it.
        """
        metrics = None if val_accuracy is None else {_METRIC: val_accuracy}
        self._manager.save(
            int(state.step), args=ocp.args.StandardSave(state), metrics=metrics, force=True
        )

    def latest_step(self) -> int | None:
        """The newest checkpoint's outer step, None when there is none."""
        return self._manager.latest_step()

    def best_steps(self) -> list[int]:
        """Outer steps of the best epochs, best first; ties: the later first."""
        self._manager.wait_until_finished()
        ranked = []
        for step in self._manager.all_steps():
            metrics = self._manager.metrics(step)
            if metrics is not None:
                ranked.append((metrics[_METRIC], step))
        return [step for _, step in sorted(ranked, reverse=True)[: self._keep_best]]

    def restore(self, step: int, like: MetaState) -> MetaState:
        """Restores one checkpoint with the shapes, dtypes and shardings of `like`.

        Raises:
            WorkdirError: it cannot be read as such a state.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except Exception as error:  # Orbax raises many kinds; each means the same to the user.
            raise WorkdirError(
                f"checkpoint {self._manager.directory / str(step)} cannot be restored "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); remove "
                "that folder to fall back to the one before."
            ) from error

    def close(self) -> None:
        """Waits for saves under way and releases the manager."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def quiet_orbax() -> None:
    """Keeps Orbax's per-save chatter out of the log; warnings stay."""
    logging.get_absl_logger().addFilter(
        lambda record: record.levelno >= std_logging.WARNING or "orbax" not in record.pathname
    )
