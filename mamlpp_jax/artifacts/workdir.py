"""The working directory of a run: its name, its owner, and the files about the run as a whole."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.artifacts import predictions as predictions_lib
from mamlpp_jax.artifacts.predictions import QueryPredictions
from mamlpp_jax.artifacts.results import Evaluation, to_json
from mamlpp_jax.config.own_code import check_allowed
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.utils.files import (
    atomic_open,
    exists,
    is_unfinished,
    read_json,
    remove_unfinished,
    wrap_os_errors,
    write_atomically,
    write_json,
)
from mamlpp_jax.utils.locks import LOCK_FILE, one_at_a_time, only_writer

# Written by a run before its first checkpoint, beside its configuration.
_OF_AN_ATTEMPT = ("data.json", "code.json", "metrics.jsonl", "timing.jsonl", "tensorboard")

_REMEDIES = {
    "config.json": "Restore it, from the copy in run/metadata of a checkpoint if need be; or use another --workdir.",
    "code.json": "Restore it, or move it away.",
    "data.json": "Restore it; or move it away, and the same training command writes it again.",
    "results.json": "Restore it; or move it away, and the same training command tests the run and writes it again.",
}


_GO_ON = (
    " That run is finished: to train on from its weights, give another --workdir and "
    "--config.train.start_from={}."
)


class Workdir:
    """The folder of a run, which need not exist; a `WorkdirError` names a file that cannot be read or written."""

    def __init__(self, path: pathlib.Path | str) -> None:
        self.path = pathlib.Path(path)
        self.config_file = self.path / "config.json"
        self.data_file = self.path / "data.json"  # fingerprint and classes of the run's data
        self.code_file = self.path / "code.json"  # SHA-256 of the modules of own parts
        self.start_folder = (
            self.path / "start"
        )  # the trained weights it started from, a saved model
        self.results_file = self.path / "results.json"  # its tests
        self.predictions_file = self.path / "predictions.npz"  # of these
        self.by_class_file = self.path / "accuracy_by_class.csv"
        # Correct query images of each task, as earlier versions wrote them.
        self.correct_file = self.path / "correct_per_task.npz"
        self.checkpoints = self.path / "checkpoints"

    @classmethod
    def default(cls, config: ConfigDict) -> Workdir:
        """``runs/<experiment>-<method>-seed<seed>-<hash of the configuration>``."""
        hashed = config_lib.config_hash(config)
        name = f"{config.experiment}-{config.method}-seed{config.seed}-{hashed}"
        return cls(pathlib.Path("runs") / name)

    def __str__(self) -> str:
        return str(self.path)

    def only_writer(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other processes from writing into the folder; see `utils.locks.only_writer`."""
        return only_writer(self.path)

    @contextlib.contextmanager
    def adding_results(self) -> Iterator[None]:
        """Keeps other processes from adding tests to the results meanwhile, also while the run is trained."""
        with contextlib.ExitStack() as stack:
            with wrap_os_errors(self.path, "write into"):
                lock = one_at_a_time(self.path / "results.lock", "writing results")
                stack.enter_context(lock)
            yield

    def check_writable(self) -> None:
        """Raises a WorkdirError where results could not be added, before they are computed."""
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise WorkdirError(f"cannot write into {self.path}: permission denied")

    def check_owner(self, config: ConfigDict) -> None:
        """Checks that the folder is new, empty, or was made by the same configuration; names the fields that differ.

        A run that was ended before its first checkpoint has nothing to lose, so any configuration may have its folder.
        """
        with wrap_os_errors(self.path, "look at the workdir"):
            is_file = self.path.exists() and not self.path.is_dir()
            is_dangling = self.path.is_symlink() and not self.path.exists()
        if is_dangling:
            raise WorkdirError(
                f"workdir {self} is a link to {os.readlink(self.path)}, which does not exist; make that folder, or "
                "use another --workdir."
            )
        if is_file:
            raise WorkdirError(
                f"workdir {self} is a file; it must be a folder, new or of this run."
            )
        if not exists(self.config_file):
            self._check_empty()
            return
        stored = _read_object(self.config_file)
        different = config_lib.differences(config, stored)
        if different and (self.has_work() or not _is_configuration(stored)):
            raise WorkdirError(
                f"workdir {self} belongs to a run of another configuration ({'; '.join(different)}). "
                "Use another --workdir, or the same configuration to continue that run."
                + _GO_ON.format(self)
                * self._is_finished()
            )

    def _check_empty(self) -> None:
        """Checks that the folder holds nothing but the leftovers of a claim that was cut off."""
        if self._has_checkpoint():
            raise WorkdirError(
                f"workdir {self} holds checkpoints, but no {self.config_file.name} that says which run's they "
                "are. Restore that file, or use another --workdir."
            )
        with wrap_os_errors(self.path, "look at the workdir"):
            names = sorted(path.name for path in self.path.iterdir()) if self.path.exists() else []
        foreign = [name for name in names if name != LOCK_FILE and not is_unfinished(name)]
        if foreign:
            more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
            raise WorkdirError(
                f"workdir {self} is not a run's folder: it holds {', '.join(foreign[:3])}{more}, but no "
                f"{self.config_file.name}. --workdir must be a new or empty folder, or that of a run."
            )

    def _has_checkpoint(self) -> bool:
        return any(path.name.isdecimal() for path in self.checkpoints.glob("*"))

    def has_work(self) -> bool:
        """True where a new start would lose something: a whole checkpoint, or results."""
        return self._has_checkpoint() or exists(self.results_file)

    def _is_finished(self) -> bool:
        return exists(self.results_file) and bool(_read_object(self.results_file).get("finished"))

    def claim(self, config: ConfigDict) -> None:
        """Writes `config.json` into the folder, which is made when missing and must be locked by this process.

        The leftovers of a run that was ended before its first checkpoint are removed, with a warning.
        """
        with wrap_os_errors(self.path, "make the workdir"):
            self.path.mkdir(parents=True, exist_ok=True)
        self.check_owner(config)
        remove_unfinished(self.path)
        if exists(self.config_file) and not self.has_work():
            self._discard(config_lib.differences(config, _read_object(self.config_file)))
        write_json(self.config_file, config.to_dict())

    def _discard(self, different: Sequence[str]) -> None:
        """Removes the files of an attempt without a checkpoint."""
        with wrap_os_errors(self.path, "remove what an earlier attempt left in"):
            leftovers = [path for name in _OF_AN_ATTEMPT if (path := self.path / name).exists()]
            if leftovers:
                logging.warning(
                    "workdir %s was begun %sand has no whole checkpoint: the run starts from the beginning. "
                    "Discarded: %s",
                    self,
                    f"with another configuration ({'; '.join(different)}) " if different else "",
                    ", ".join(path.name for path in leftovers),
                )
            for path in leftovers:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def config(self, *, allow_code: bool = False) -> ConfigDict:
        """The configuration the run was trained with; a `ConfigError` where it names code that is not allowed."""
        if not exists(self.config_file):
            raise WorkdirError(
                f"{self.config_file} does not exist; --workdir must be the folder of a trained run."
            )
        try:
            config = config_lib.from_dict(_read_object(self.config_file))
        except ConfigError as error:
            raise WorkdirError(f"{self.config_file} does not fit this version: {error}") from error
        check_allowed(config, self.config_file, allow_code)
        return config

    def check_code(self, hashes: Mapping[str, str], *, allow_change: bool = False) -> None:
        """Checks that the modules of own parts are those that the run began with, by their SHA-256."""
        recorded = (
            _read_object(self.code_file) if exists(self.code_file) and self.has_work() else None
        )
        changed = (
            sorted(set(recorded.items()) ^ set(hashes.items())) if recorded is not None else []
        )
        if changed and not allow_change:
            raise WorkdirError(
                f"workdir {self} belongs to a run whose own module {changed[0][0]} was another ({self.code_file.name} "
                "has the SHA-256 of its source). Give it back to continue the run, use another --workdir, or allow the "
                "change by --allow_code_change."
            )

    def record_code(self, hashes: Mapping[str, str]) -> None:
        """Writes `code.json`, the SHA-256 of the source of each own part's module; nothing where there are none."""
        if hashes:
            write_json(self.code_file, dict(hashes))

    def check_data(self, fingerprint: str, classes: Mapping[str, Sequence[str]]) -> None:
        """Checks by the data's fingerprint and the classes of splits that they are those the run began with.

        A run without `data.json` takes any, and so does one that was ended before its first checkpoint.
        """
        if not exists(self.data_file) or not self.has_work():
            return
        recorded, name = _read_object(self.data_file), self.data_file.name
        if recorded.get("sha256") != fingerprint:
            raise WorkdirError(
                f"workdir {self} belongs to a run on other images, or on the same in other classes ({name} "
                "says which classes). Use another --workdir, or give the run its data back to continue it."
            )
        known = recorded.get("classes")
        for split, names in classes.items():
            if not isinstance(known, dict) or known.get(split) != list(names):
                raise WorkdirError(
                    f"workdir {self} belongs to a run that had other classes in its {split} split, which "
                    f"{name} lists. Use another --workdir, or the same data.split_file to continue it."
                )

    def recorded_classes(self, fingerprint: str) -> dict[str, list[str]]:
        """The classes of each split that the run began with; {} where there is no record for this fingerprint."""
        recorded = self._recorded() if self.has_work() else {}
        classes = recorded.get("classes")
        if recorded.get("sha256") != fingerprint or not isinstance(classes, dict):
            return {}
        return {str(split): list(map(str, names)) for split, names in classes.items()}

    def trained_classes(self, fingerprint: str) -> set[str]:
        """The names of the classes that the run is trained on or chosen by; none where the images are others."""
        recorded = self.recorded_classes(fingerprint)
        return {name for split in ("train", "val") for name in recorded.get(split, ())}

    def record_data(
        self, fingerprint: str, channels: int, classes: Mapping[str, Sequence[str]]
    ) -> None:
        """Writes `data.json`: fingerprint, channels and classes of the data that the run is trained and tested on."""
        content = {"sha256": fingerprint, "channels": channels, "classes": dict(classes)}
        write_json(self.data_file, content)

    def recorded_channels(self) -> int:
        """Channels of the images the run is trained on; 0 where `data.json` does not say."""
        channels = self._recorded().get("channels")
        return channels if isinstance(channels, int) else 0

    def _recorded(self) -> dict[str, Any]:
        return _read_object(self.data_file) if exists(self.data_file) else {}

    def results(self) -> dict[str, Any] | None:
        """The content of `results.json`, "test" as `Evaluation`s; None when there is none."""
        if not exists(self.results_file):
            return None
        results = _read_object(self.results_file)
        try:
            return {**results, "test": _parse_results(results)}
        except ValueError as error:
            raise WorkdirError(
                f"{self.results_file} does not fit this version: {error}. "
                f"{_REMEDIES[self.results_file.name]}"
            ) from error

    def predictions(self) -> dict[str, QueryPredictions]:
        """The predictions of each test, by `Evaluation.key`; of those that the file has."""
        tests = (self.results() or {"test": []})["test"]
        return _read_arrays(self.predictions_file, lambda file: predictions_lib.load(file, tests))

    def correct_per_task(self) -> dict[str, np.ndarray]:
        """Correct query images of each task, uint16 [tasks], by `Evaluation.key`, as far as they are known."""
        older = _read_arrays(
            self.correct_file, lambda file: dict(np.load(file, allow_pickle=False))
        )
        return older | {key: of.correct_per_task for key, of in self.predictions().items()}

    def write_results(
        self, results: Mapping[str, Any], predictions: Mapping[str, QueryPredictions]
    ) -> None:
        """Writes `results.json` and, before it, the predictions of its tests.

        `results["test"]` has `Evaluation`s; `predictions` has those of new tests, and those of earlier tests stay.
        """
        known = self.predictions() | dict(predictions)
        tests = {t.key: (t, known[t.key]) for t in results["test"] if t.key in known}
        path = self.predictions_file
        with wrap_os_errors(path, "write"), atomic_open(path) as file:
            predictions_lib.save(file, tests)
        write_json(self.results_file, to_json(results))

    def write_by_class(self) -> None:
        """Writes `accuracy_by_class.csv` from the predictions: a row per test and class."""
        predictions = self.predictions()
        rows = [
            {**test.conditions, "rotated": test.rotated, **row}
            for test in (self.results() or {"test": []})["test"]
            if test.key in predictions
            for row in predictions[test.key].by_class()
        ]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.by_class_file, text.getvalue().encode())


def _read_arrays(path: pathlib.Path, read: Callable[[BinaryIO], dict[str, Any]]) -> dict[str, Any]:
    """Reads a file of single tasks' results; {} where it is missing."""
    if not exists(path):
        return {}
    try:
        with path.open("rb") as file:
            return read(file)
    except Exception as error:  # NumPy's reading of a broken file fails in any way
        raise WorkdirError(
            f"{path} cannot be read ({error}). Restore it, or move it away: accuracies stay in results.json, those of "
            "single tasks are lost."
        ) from error


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    """Reads one of the folder's JSON files; an error says what can be done."""
    remedy = _REMEDIES[path.name]
    try:
        content = read_json(path)
    except WorkdirError as error:
        raise WorkdirError(f"{error}. {remedy}") from error
    if not isinstance(content, dict):
        raise WorkdirError(
            f"{path} holds a {type(content).__name__}; it must hold a JSON object. {remedy}"
        )
    return content


def _is_configuration(stored: dict[str, Any]) -> bool:
    """Distinguishes a run's from the `config.json` of another program."""
    try:
        config_lib.from_dict(stored)
    except ConfigError:
        return False
    return True


def _parse_results(results: dict[str, Any]) -> list[Evaluation]:
    """The rows of "test"; everything else in the file is for people and other programs."""
    try:
        trained = results["config"]["task"]["way"], results["config"]["train"]["inner_steps"]
    except (KeyError, TypeError):
        trained = ("", "")
    if not all(isinstance(number, int) for number in trained):
        raise ValueError("it lacks the run's configuration")
    rows = results.get("test")
    if not isinstance(rows, list):
        raise ValueError('"test" is not a list of objects')
    return [Evaluation.from_row(row) for row in rows]
