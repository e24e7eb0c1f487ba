"""Checkpoints of a run: the latest and the best epochs, through one Orbax manager, each with a checksum manifest."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging as std_logging
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as managers

from mamlpp_jax.distributed import processes
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.training import checkpoint_integrity as integrity
from mamlpp_jax.types import MetaParams, MetaState
from mamlpp_jax.utils.files import read_json

FOLDER = "checkpoints"
QUARANTINE = "damaged"
_METRIC = "val_accuracy"
_PACKAGES = ("mamlpp_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# The latest may turn out damaged: then the run goes on from the one before.
_LATEST = 2
# Orbax measures its patience with a save on the wall clock, which may jump.
_TRIES = 5
# Parts of a save that was given up may still be being written, into the folder that is to be removed.
_STRAGGLERS_SECONDS = 2.0


class CheckpointReader:
    """Restores a run's checkpoints and changes nothing; another process may be writing more of them.

    The key of a checkpoint is its outer step. Beside the state it holds the validation history, the configuration
    and the versions of the libraries (as JSON; nothing is ever unpickled). A checkpoint whose files do not match
    their manifest is left out, with a warning. Files that cannot be read or written are a `WorkdirError`.
    """

    def __init__(self, workdir: pathlib.Path) -> None:
        """Opens the checkpoints in the folder `checkpoints` of a working directory; there must be one."""
        self._folder = (workdir / FOLDER).resolve()
        self.history: list[dict[str, float]] = []
        if not self._folder.is_dir():
            raise WorkdirError(
                f"the run in {workdir} has no checkpoint; train it first, or wait for one."
            )
        with self._explaining("opened"):
            steps = [int(path.name) for path in integrity.complete_checkpoints(self._folder)]
            self._steps = [step for step in steps if self._is_valid(step)]
            self._damaged = [step for step in steps if step not in self._steps]
            # Not a manager, which fails where one of the checkpoints is damaged.
            self._orbax: Any = ocp.Checkpointer(ocp.CompositeCheckpointHandler())

    def lacking(self, lack: str, remedy: str) -> WorkdirError:
        """The error that a checkpoint is missing; says where damaged ones were left out.

        `lack` has no full stop; `remedy` helps where none is damaged.
        """
        if not self._damaged:
            return WorkdirError(f"{lack}; {remedy}.")
        return WorkdirError(
            f"{lack}: the checkpoints of outer step {', '.join(map(str, self._damaged))} in {self._folder} are "
            "damaged, as warned. Restore their files from a copy, or train again in another --workdir."
        )

    def steps(self) -> list[int]:
        """Outer steps of all undamaged checkpoints, oldest first."""
        return self._steps

    def latest_step(self) -> int | None:
        """The newest checkpoint's outer step, None when there is none."""
        return max(self.steps(), default=None)

    def best_steps(self, count: int) -> list[int]:
        """Outer steps of the best epochs, at most `count`, best first; ties: the later first."""
        accuracies = {step: self._accuracy(step) for step in self.steps()}
        ranked = [(accuracy, step) for step, accuracy in accuracies.items() if accuracy is not None]
        return [step for _, step in sorted(ranked, reverse=True)[:count]]

    def _accuracy(self, step: int) -> float | None:
        """The accuracy that ranks a checkpoint; None where it was saved within an epoch."""
        metrics = self._folder / str(step) / "metrics" / "metrics"
        return float(read_json(metrics)[_METRIC]) if metrics.exists() else None

    def have_vanished(self) -> bool:
        """True where one of the first checkpoints has since been removed."""
        return not all((self._folder / str(step)).is_dir() for step in self._steps)

    def _is_valid(self, step: int) -> bool:
        try:
            problem = integrity.find_damage(self._folder / str(step))
        except OSError as error:
            problem = str(error)
        if problem and (self._folder / str(step)).is_dir():  # else it has just been removed
            logging.warning("checkpoint %s is left out: %s", self._folder / str(step), problem)
        return not problem

    def restore(self, step: int, like: MetaState) -> MetaState:
        """Restores the checkpoint of an outer step with the shapes, dtypes and shardings of `like`, and the history."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _to_stored(like))
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), run=ocp.args.JsonRestore()
        )
        try:
            restored = self._read(step, items)
            self.history = list(restored["run"]["validation"])
        except Exception as error:  # Orbax raises many kinds; each means the same to the user.
            raise WorkdirError(
                f"checkpoint {self._folder / str(step)} cannot be restored "
                f"({_first_line(error)}). Its files are as they were saved, so it must be of another "
                "configuration, data set or version; its file run/metadata says which."
            ) from error
        state = _from_stored(like, restored["state"])
        if int(state.step) != step:
            raise WorkdirError(
                f"checkpoint {self._folder / str(step)} holds the state after outer step {int(state.step)}; "
                "it must have been renamed or replaced. Give it back its name, or remove it."
            )
        return state

    def _read(self, step: int, items: ocp.args.Composite) -> Any:
        return self._orbax.restore(self._folder / str(step), args=items)

    def close(self) -> None:
        """Releases what Orbax holds."""
        self._orbax.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        # An error that ended the block is reported, not its consequences.
        with contextlib.suppress(*([Exception] if error else [])):
            self.close()

    @contextlib.contextmanager
    def _explaining(self, action: str) -> Iterator[None]:
        try:
            yield
        except WorkdirError:
            raise
        except Exception as error:  # from the disk, through any layer of Orbax and TensorStore
            raise WorkdirError(
                f"the checkpoints in {self._folder} cannot be {action} ({_first_line(error)}); those "
                "saved before stay usable. Make room or the folder writable, and start the run again."
            ) from error


class _Epoch(NamedTuple):
    """A state to be saved; `accuracy` ranks it where it is the end of an epoch."""

    step: int
    state: MetaState
    accuracy: float | None


class Checkpoints(CheckpointReader):
    """Saves and restores `MetaState`; only one process may have a folder open so.

    Checkpoints with a validation accuracy compete to be among the best (ties: the later wins); the two latest
    stay whatever they are. Epochs that end in quick succession may be buffered in memory until the next save, which
    writes the best of them too.

    A manifest with the SHA-256 of each of its files is written into the temporary folder that Orbax renames when the
    checkpoint is complete. Opening the folder compares every manifest: a checkpoint that is damaged is moved to
    `damaged/` with a warning, and the one before is the latest. Where all are damaged, none is moved.
    """

    def __init__(
        self, workdir: pathlib.Path, num_best: int, config: Mapping[str, Any] | None = None
    ) -> None:
        """Opens the checkpoints of a working directory, which need not exist yet.

        Beside the latest, `num_best` of the best stay; `config` is stored with each. Not all may be damaged.
        """
        self._num_best = num_best
        self._folder = (workdir / FOLDER).resolve()
        self._about = {"config": dict(config or {}), "versions": _versions()}
        self.history = []
        self._damaged = []  # They are moved away.
        self._buffer: list[_Epoch] = []
        self._unfinished: _Epoch | None = None
        if processes.is_first():
            integrity.remove_half_written(self._folder)
            integrity.quarantine_damaged(self._folder, workdir / QUARANTINE)
        processes.wait_for_all("checkpoints")
        best = managers.BestN(
            get_metric_fn=lambda metrics: metrics[_METRIC],
            n=num_best,
            keep_checkpoints_without_metrics=False,
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy([best, managers.LatestN(_LATEST)]),
            best_fn=lambda metrics: metrics[_METRIC],
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_manifest),
        )
        with self._explaining("opened"):
            self._orbax = ocp.CheckpointManager(self._folder, options=options)

    def buffer(self, state: MetaState, val_accuracy: float) -> None:
        """Holds the end of an epoch in memory until the next save, when its accuracy ranks it among the best.

        The state may be donated afterwards.
        """
        step = int(state.step)
        self.history.append({"step": step, _METRIC: val_accuracy})
        self._buffer.append(_Epoch(step, _copied(state), val_accuracy))
        ranked = sorted(self._buffer, key=lambda epoch: (epoch.accuracy, epoch.step))
        best = {epoch.step for epoch in ranked[-self._num_best :]} | {step}
        self._buffer = [epoch for epoch in self._buffer if epoch.step in best]

    @property
    def has_buffered(self) -> bool:
        """True where an epoch waits in memory to be saved."""
        return bool(self._buffer)

    def save(self, state: MetaState | None = None) -> None:
        """Saves in the background: the buffered epochs, and a given state that is none of them.

        The state may be donated afterwards. An error may be that of the save before; earlier checkpoints are untouched.
        """
        if state is not None and not any(epoch.step == int(state.step) for epoch in self._buffer):
            self._buffer.append(_Epoch(int(state.step), _copied(state), None))
        buffered, self._buffer = self._buffer, []
        with self._explaining("saved"):
            if not self._folder.is_dir():  # Orbax would make it again, without the rest of the run.
                raise FileNotFoundError("the folder has vanished")
            for epoch in buffered:
                self._finish()
                self._unfinished = epoch
                self._write(epoch)

    def _write(self, epoch: _Epoch) -> None:
        known = [row for row in self.history if row["step"] <= epoch.step]
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_to_stored(epoch.state)),
            run=ocp.args.JsonSave({**self._about, "validation": known}),
        )
        metrics = None if epoch.accuracy is None else {_METRIC: epoch.accuracy}
        self._orbax.save(epoch.step, args=items, metrics=metrics, force=True)

    def _finish(self) -> None:
        """Waits for the save under way, and makes it again when the clock jumped meanwhile."""
        for left in reversed(range(_TRIES)):
            try:
                self._orbax.wait_until_finished()
            except TimeoutError as error:
                # Other processes may have finished theirs: they cannot go back.
                if not left or processes.joined() or self._unfinished is None:
                    raise
                step = self._unfinished.step
                logging.warning("checkpoint %d is written again (%s)", step, _first_line(error))
                time.sleep(_STRAGGLERS_SECONDS)
                for unfinished in self._folder.glob(f"{step}{integrity.TEMPORARY}*"):
                    shutil.rmtree(unfinished, ignore_errors=True)
                self._orbax.reload()  # Else it would count as one of the latest.
                self._write(self._unfinished)
            else:
                self._unfinished = None
                return

    def steps(self) -> list[int]:
        """See `CheckpointReader.steps`; waits for a save under way."""
        self.wait()
        return [step for step in sorted(self._orbax.all_steps()) if self._is_valid(step)]

    def latest_step(self) -> int | None:
        """The newest checkpoint's outer step, None when there is none; it may be under way."""
        return self._orbax.latest_step()

    def best_steps(self, count: int | None = None) -> list[int]:
        """See `CheckpointReader.best_steps`; by default as many as stay."""
        return super().best_steps(count or self._num_best)

    def _read(self, step: int, items: ocp.args.Composite) -> Any:
        return self._orbax.restore(step, args=items)

    def wait(self) -> None:
        """Returns when everything is on the disk."""
        with self._explaining("saved"):
            self._finish()

    def close(self) -> None:
        """Waits for saves under way and releases the manager."""
        self.wait()
        super().close()

    def _write_manifest(self) -> None:
        """Called by Orbax when everything is written and nothing is renamed yet."""
        if processes.is_first():
            for folder in self._folder.glob(f"*{integrity.TEMPORARY}*"):
                integrity.write_manifest(folder)


def _to_stored(state: MetaState) -> Any:
    """The state as checkpoints hold it: `MetaParams` without an empty part, as before there were learned losses."""

    def pack(node: Any) -> Any:
        if not isinstance(node, MetaParams):
            return node
        parts = node._asdict()
        return parts if node.inner_loss else {k: v for k, v in parts.items() if k != "inner_loss"}

    return jax.tree.map(pack, state, is_leaf=lambda node: isinstance(node, MetaParams))


def _from_stored(like: MetaState, stored: Any) -> MetaState:
    """The reverse of `_to_stored`, for a state with the structure of `like`."""

    def unpack(node: Any, part: Any) -> Any:
        return MetaParams(**part) if isinstance(node, MetaParams) else part

    return jax.tree.map(unpack, like, stored, is_leaf=lambda node: isinstance(node, MetaParams))


@jax.jit
def _copied(state: MetaState) -> MetaState:
    copied: MetaState = jax.tree.map(jnp.copy, state)
    return copied


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Keeps Orbax's per-save chatter and tracebacks out of the log meanwhile; its warnings and errors stay."""
    logger, hook = logging.get_absl_logger(), sys.unraisablehook
    if _is_worth_logging in logger.filters:
        yield
        return
    logger.addFilter(_is_worth_logging)
    sys.unraisablehook = _QuietHook(hook)
    try:
        yield
    finally:
        logger.removeFilter(_is_worth_logging)
        sys.unraisablehook = hook


class _QuietHook:
    """Leaves out TensorStore's messages of writes that outlive a save which failed for a reported reason."""

    def __init__(self, report: Callable[[sys.UnraisableHookArgs], Any]) -> None:
        self._report = report

    def __call__(self, raised: sys.UnraisableHookArgs) -> None:
        if raised.exc_type is not RuntimeError or str(raised.exc_value) != "Event loop is closed":
            self._report(raised)


def _is_worth_logging(record: std_logging.LogRecord) -> bool:
    if "orbax" not in record.pathname:
        return True
    # Its threads log what they raise; it is raised again where this project explains it.
    record.exc_info = record.exc_text = None
    # Saves within an epoch have no accuracy to rank them by.
    return record.levelno >= std_logging.WARNING and "tracked_metric" not in record.getMessage()
