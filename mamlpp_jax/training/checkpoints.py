"""Checkpoints of a run: the latest and the best epochs, through one Orbax manager, each sealed by checksums."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging as std_logging
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as managers

from mamlpp_jax.distributed import processes
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.types import MetaState
from mamlpp_jax.utils.files import naming, read_json, write_json

FOLDER = "checkpoints"
DAMAGED_FOLDER = "damaged"
_SEAL = "sha256.json"
# What Orbax still writes afterwards: the time, and that it was done.
_UNSEALED = (_SEAL, "_CHECKPOINT_METADATA", "commit_success.txt")
_TEMPORARY = ".orbax-checkpoint-tmp"
_METRIC = "val_accuracy"
_PACKAGES = ("mamlpp_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# The latest may turn out damaged: then the run goes on from the one before.
_LATEST = 2
# Orbax measures its patience with a save on the wall clock, which may jump.
_TRIES = 5
# Parts of a save that was given up may still be being written, into the folder that is to be removed.
_STRAGGLERS_SECONDS = 2.0


class _Epoch(NamedTuple):
    """A state to be saved; `accuracy` ranks it where it is the end of an epoch."""

    step: int
    state: MetaState
    accuracy: float | None


class Checkpoints:
    """Saves and restores `MetaState`; the key of a checkpoint is its outer step.

    Checkpoints with a validation accuracy compete to be among the best (ties: the later wins); the two latest are
    kept whatever they are. Epochs that end in quick succession may be held in memory until the next save, which
    writes the best of them too. Beside the state a checkpoint holds the validation history, the configuration
    and the versions of the libraries (as JSON; nothing is ever unpickled).

    A file with the SHA-256 of each of its files seals a checkpoint, from within the temporary folder that Orbax
    renames when it is complete. Opening the folder checks every seal: a checkpoint that is damaged
    is moved to `damaged/` with a warning, and the one before is the latest.
    """

    def __init__(
        self, workdir: pathlib.Path, keep_best: int, config: Mapping[str, Any] | None = None
    ) -> None:
        """Opens the checkpoints of a working directory, which need not exist yet.

        Args:
            workdir: they are in its folder `checkpoints`.
            keep_best: how many of the best to keep.
            config: stored with every checkpoint.

        Raises:
            WorkdirError: the folder cannot be made, read or written.
        """
        self._keep_best = keep_best
        self._folder = (workdir / FOLDER).resolve()
        self._about = {"config": dict(config or {}), "versions": _versions()}
        self.history: list[dict[str, float]] = []
        self._held: list[_Epoch] = []
        self._written: _Epoch | None = None
        if processes.is_first():
            _remove_half_written(self._folder)
            _set_damaged_aside(self._folder, workdir / DAMAGED_FOLDER)
        processes.wait_for_all("checkpoints")
        best = managers.BestN(
            get_metric_fn=lambda metrics: metrics[_METRIC],
            n=keep_best,
            keep_checkpoints_without_metrics=False,
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy([best, managers.LatestN(_LATEST)]),
            best_fn=lambda metrics: metrics[_METRIC],
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
        )
        with self._explaining("opened"):
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def hold(self, state: MetaState, val_accuracy: float) -> None:
        """Keeps the end of an epoch in memory until the next save, when it is among the best.

        Args:
            state: may be donated afterwards.
            val_accuracy: what ranks it.
        """
        step = int(state.step)
        self.history.append({"step": step, _METRIC: val_accuracy})
        self._held.append(_Epoch(step, _copied(state), val_accuracy))
        ranked = sorted(self._held, key=lambda held: (held.accuracy, held.step))
        kept = {held.step for held in ranked[-self._keep_best :]} | {step}
        self._held = [held for held in self._held if held.step in kept]

    @property
    def holds(self) -> bool:
        """Whether an epoch waits in memory to be saved."""
        return bool(self._held)

    def save(self, state: MetaState | None = None) -> None:
        """Saves in the background: the epochs held in memory, and the state where it is none of them.

        Args:
            state: may be donated afterwards; None for only what is held.

        Raises:
            WorkdirError: this save or the one before failed; earlier checkpoints are untouched.
        """
        if state is not None and not any(held.step == int(state.step) for held in self._held):
            self._held.append(_Epoch(int(state.step), _copied(state), None))
        held, self._held = self._held, []
        with self._explaining("saved"):
            if not self._folder.is_dir():  # Orbax would make it again, without the rest of the run.
                raise FileNotFoundError("the folder has vanished")
            for epoch in held:
                self._finish()
                self._written = epoch
                self._write(epoch)

    def _write(self, epoch: _Epoch) -> None:
        known = [row for row in self.history if row["step"] <= epoch.step]
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(epoch.state),
            run=ocp.args.JsonSave({**self._about, "validation": known}),
        )
        metrics = None if epoch.accuracy is None else {_METRIC: epoch.accuracy}
        self._manager.save(epoch.step, args=items, metrics=metrics, force=True)

    def _finish(self) -> None:
        """Waits for the save under way, and makes it again when the clock jumped meanwhile."""
        for left in reversed(range(_TRIES)):
            try:
                self._manager.wait_until_finished()
            except TimeoutError as error:
                # Other processes may have finished theirs: they cannot go back.
                if not left or processes.joined() or self._written is None:
                    raise
                step = self._written.step
                logging.warning("checkpoint %d is written again (%s)", step, _first_line(error))
                time.sleep(_STRAGGLERS_SECONDS)
                for unfinished in self._folder.glob(f"{step}{_TEMPORARY}*"):
                    shutil.rmtree(unfinished, ignore_errors=True)
                self._manager.reload()  # Else it would count as one of the latest.
                self._write(self._written)
            else:
                self._written = None
                return

    def latest_step(self) -> int | None:
        """The newest checkpoint's outer step, None when there is none."""
        return self._manager.latest_step()

    def best_steps(self) -> list[int]:
        """Outer steps of the best epochs, best first; ties: the later first.

        Raises:
            WorkdirError: a save under way failed.
        """
        self.wait()
        ranked = []
        for step in self._manager.all_steps():
            metrics = self._manager.metrics(step)
            if metrics is not None:
                ranked.append((metrics[_METRIC], step))
        return [step for _, step in sorted(ranked, reverse=True)[: self._keep_best]]

    def is_sound(self, step: int) -> bool:
        """Whether a checkpoint's files still match its seal; warns by name when not."""
        problem = _problem(self._folder / str(step))
        if problem:
            logging.warning("checkpoint %s is left out: %s", self._folder / str(step), problem)
        return not problem

    def restore(self, step: int, like: MetaState) -> MetaState:
        """Restores one checkpoint with the shapes, dtypes and shardings of `like`, and the history.

        Raises:
            WorkdirError: it cannot be read as such a state, or is one of another step.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), run=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
            self.history = list(restored["run"]["validation"])
        except Exception as error:  # Orbax raises many kinds; each means the same to the user.
            raise WorkdirError(
                f"checkpoint {self._folder / str(step)} cannot be restored "
                f"({_first_line(error)}). Its files are as they were saved, so it must be of another "
                "configuration, data set or version; its file run/metadata says which."
            ) from error
        state: MetaState = restored["state"]
        if int(state.step) != step:
            raise WorkdirError(
                f"checkpoint {self._folder / str(step)} holds the state after outer step {int(state.step)}; "
                "it must have been renamed or replaced. Give it back its name, or remove it."
            )
        return state

    def wait(self) -> None:
        """Returns when everything is on the disk.

        Raises:
            WorkdirError: a save failed.
        """
        with self._explaining("saved"):
            self._finish()

    def close(self) -> None:
        """Waits for saves under way and releases the manager.

        Raises:
            WorkdirError: a save failed.
        """
        self.wait()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self.close()
            return
        # What ended the block is told, not what it led to.
        with contextlib.suppress(Exception):
            self.close()

    def _seal(self) -> None:
        """Called by Orbax when everything is written and nothing is renamed yet."""
        if processes.is_first():
            for folder in self._folder.glob(f"*{_TEMPORARY}*"):
                write_json(folder / _SEAL, _digests(folder))

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


def _remove_half_written(folder: pathlib.Path) -> None:
    """Removes the temporary folders of saves that were cut off; warns of each by name."""
    for temporary in sorted(folder.glob(f"*{_TEMPORARY}*")):
        logging.warning(
            "checkpoint %s was only half written and is removed; the one before it is used.",
            temporary,
        )
        with naming(temporary, "remove"):
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink()


def _set_damaged_aside(folder: pathlib.Path, aside: pathlib.Path) -> None:
    """Moves checkpoints that are not what was saved out of the way; warns of each by name."""
    with naming(folder, "read the checkpoints in"):
        problems = {checkpoint: _problem(checkpoint) for checkpoint in _complete(folder)}
        sound = [checkpoint for checkpoint, problem in problems.items() if not problem]
        for checkpoint, problem in problems.items():
            if not problem:
                continue
            target = _free_name(aside / checkpoint.name)
            # A later one may be sound; then the damaged one was kept for its accuracy.
            after = int(checkpoint.name) > int(sound[-1].name) if sound else True
            logging.warning(
                "checkpoint %s is skipped: %s. It is moved to %s, and %s.",
                checkpoint,
                problem,
                target,
                "the one before it is used" if after else "is missing among the best epochs",
            )
            aside.mkdir(exist_ok=True)
            checkpoint.rename(target)


def _free_name(path: pathlib.Path) -> pathlib.Path:
    number = 0
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _complete(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders that Orbax has given their final names, oldest step first."""
    if not folder.is_dir():
        return []
    steps = (path for path in folder.iterdir() if re.fullmatch("[0-9]+", path.name))
    found = [path for path in steps if path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def _problem(checkpoint: pathlib.Path) -> str:
    """What is wrong with a checkpoint, "" when its files match its seal."""
    if not (checkpoint / _SEAL).exists():
        return f"it has no {_SEAL}, so it was not completely written"
    try:
        sealed, found = read_json(checkpoint / _SEAL), _digests(checkpoint)
    except (WorkdirError, OSError) as error:
        return str(error)
    if not isinstance(sealed, dict):
        return f"{_SEAL} is damaged"
    different = sorted(
        name for name in sealed.keys() | found.keys() if sealed.get(name) != found.get(name)
    )
    return f"{', '.join(different[:3])} differ from what was saved" if different else ""


def _digests(checkpoint: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file that a restore reads, by its path inside the checkpoint."""
    paths = ((str(path.relative_to(checkpoint)), path) for path in sorted(checkpoint.rglob("*")))
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in paths
        if path.is_file() and name not in _UNSEALED
    }


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


def quiet_orbax() -> None:
    """Keeps Orbax's per-save chatter and tracebacks out of the log; its warnings and errors stay."""
    logging.get_absl_logger().addFilter(_is_worth_logging)
    report = sys.unraisablehook

    def quieter(raised: sys.UnraisableHookArgs) -> None:
        # What TensorStore prints of writes that outlive a save which failed for a reason that is told.
        if not (
            raised.exc_type is RuntimeError and str(raised.exc_value) == "Event loop is closed"
        ):
            report(raised)

    sys.unraisablehook = quieter


def _is_worth_logging(record: std_logging.LogRecord) -> bool:
    if "orbax" not in record.pathname:
        return True
    # Its threads log what they raise; it is raised again where this project explains it.
    record.exc_info = record.exc_text = None
    # Saves within an epoch have no accuracy to rank them by.
    return record.levelno >= std_logging.WARNING and "tracked_metric" not in record.getMessage()
