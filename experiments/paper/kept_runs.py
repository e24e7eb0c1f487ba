"""Reads what `experiments.paper.keep` kept of a run, and says how it differs from the run that was planned."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
import runpy
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.paper.runs import EPOCHS_FILE, FAILURE_FILE, Run
from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms import schedules
from mamlpp_jax.artifacts.provenance import describe
from mamlpp_jax.artifacts.results import TestResult
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.config.fields import FIELDS
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.utils.files import exists, read_json, wrap_os_errors

_CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
# A folder in which these differ from its name holds another run.
_IDENTITY = (
    *("experiment", "method", "protocol", "seed", "data.name"),
    *("task.way", "task.shot", "train.inner_steps"),
)
_NUMBERS = ("step", "loss", "grad_norm", "grad_norm_max", "val_accuracy", "ms_per_step")


@dataclasses.dataclass(frozen=True)
class KeptRun:
    """A run that has been made, or that diverged.

    Attributes:
        name: of its folder.
        config: its fields by name, such as "train.epochs".
        changed: fields that differ from the planned run's, as "train.epochs=3".
        full_steps: outer steps of the same run in full; of the paper's protocol, unless its own is "released".
        epochs: a record per epoch, see `keep.epoch_records`.
        results: the content of `results.json` with `TestResult`s; {} for a run that diverged.
        failure: why it has no results; "" for a run that has.
        images: SHA-256 of the images of its data.
    """

    name: str
    config: dict[str, Any]
    changed: tuple[str, ...]
    full_steps: int
    epochs: list[dict[str, Any]]
    results: dict[str, Any]
    failure: str
    images: str

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.config["seed"])

    @property
    def steps(self) -> int:
        """Outer steps done."""
        done = self.epochs[-1]["step"] if self.epochs else 0
        return int(self.results.get("steps", done))

    @property
    def finished(self) -> bool:
        """Whether every epoch of its configuration was done."""
        return bool(self.results.get("finished"))

    @property
    def made(self) -> str:
        """The hardware and the commit, more than one where a run went on elsewhere; "" where nothing says."""
        return "; then ".join(dict.fromkeys(filter(None, self.made_by_epoch)))

    @property
    def own_tests(self) -> list[TestResult]:
        """The tests under the conditions of training, of any number of tasks."""
        wanted = [self.config[f"task.{key}"] for key in ("way", "shot", "query")]
        wanted.append(self.config["train.inner_steps"])
        return [
            test
            for test in self.results.get("test", ())
            if not test.data and [test.way, test.shot, test.query, test.inner_steps] == wanted
        ]

    @property
    def made_by_epoch(self) -> list[str]:
        """The hardware and the commit at the end of each epoch, where it is not recorded those of the test."""
        tested = describe(self.results) if self.results else ""
        return [record.get("made", tested) for record in self.epochs]

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Outer steps and a value, of the epochs that have it as a finite number."""
        rows = [row for row in self.epochs if math.isfinite(row.get(key, math.nan))]
        return [row["step"] for row in rows], [row[key] for row in rows]

    @property
    def kinds(self) -> list[tuple[int, bool]]:
        """Order of derivatives, and whether the loss was the multi-step one, of each epoch."""
        length, first_order, multi_step = (
            self.config[f"train.{key}"]
            for key in ("steps_per_epoch", "first_order_epochs", "multi_step_epochs")
        )
        epochs = [(record["step"] - 1) // length for record in self.epochs]
        return [
            (schedules.derivative_order(e, first_order), schedules.is_multi_step(e, multi_step))
            for e in epochs
        ]

    @property
    def failed_step(self) -> int:
        """The outer step at which the run diverged, or the last one there is of it."""
        found = re.search(r"outer step (\d+)", self.failure)
        return int(found[1]) if found else self.steps


def planned_config(run: Run) -> ConfigDict:
    """The configuration that the command of a run asks for."""
    config = runpy.run_path(str(_CONFIGS / f"{run.data}.py"))["get_config"](run.argument)
    config.update_from_flattened_dict(dict(run.fields))
    return config


def load_kept(results: pathlib.Path, run: Run) -> KeptRun | None:
    """What is kept of a run; None when there is nothing, or only a part that was being copied.

    Raises:
        WorkdirError: a file cannot be read, is not what `keep` writes, or is of another run.
    """
    kept = load_folder(results / run.name)
    if kept is None:
        return None
    planned = dict(config_lib.flatten(planned_config(run)))
    if wrong := [key for key in _IDENTITY if kept.config.get(key) != planned[key]]:
        here = ", ".join(f"{key}={kept.config.get(key)!r}" for key in wrong)
        raise WorkdirError(
            f"{results / run.name} holds another run than its name says: it has {here}. Give the folder the name "
            "of its run, or remove it."
        )
    protocol = "released" if run.protocol == "released" else "paper"
    in_full = planned_config(run._replace(protocol=protocol, fields={}))
    steps = config_lib.total_steps(in_full)
    return dataclasses.replace(kept, changed=_changed(planned, kept.config), full_steps=steps)


def load_folder(folder: pathlib.Path) -> KeptRun | None:
    """As `load_kept`, of a folder whose planned run is not known: nothing in it counts as changed."""
    results = Workdir(folder).results()
    failed = exists(folder / FAILURE_FILE)
    if results is None and not failed:
        return None
    stored = dict(config_lib.flatten(read_json(folder / "config.json")))
    failure = ""
    if results is None:
        with wrap_os_errors(folder / FAILURE_FILE, "read"):
            failure = (folder / FAILURE_FILE).read_text(encoding="utf-8").strip()
    if missing := [key for key in (*_IDENTITY, "task.query") if key not in stored]:
        raise WorkdirError(
            f"{folder / 'config.json'} lacks {', '.join(missing)}; restore the file."
        )
    config = dict(config_lib.flatten(config_lib.complete(stored, to_train=False)))
    steps = config["train.epochs"] * config["train.steps_per_epoch"]
    data = read_json(folder / "data.json")
    return KeptRun(
        name=folder.name,
        config=config,
        changed=(),
        full_steps=steps,
        epochs=_epochs(folder / EPOCHS_FILE),
        results=results or {},
        failure=failure,
        images=str(data.get("sha256")) if isinstance(data, dict) else "",
    )


def load_all(results: pathlib.Path, runs: Sequence[Run]) -> list[KeptRun]:
    """What there is of the runs, in their order."""
    return [kept for run in runs if (kept := load_kept(results, run))]


def _changed(planned: dict[str, Any], config: dict[str, Any]) -> tuple[str, ...]:
    """Fields that changed what was computed; one that is newer than the run is left out."""
    return tuple(
        f"{key}={value}"
        for key, value in sorted(config.items())
        if planned.get(key) != value and not (key in FIELDS and FIELDS[key].resumable)
    )


def _epochs(path: pathlib.Path) -> list[dict[str, Any]]:
    with wrap_os_errors(path, "read"):
        lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            values = [record[key] for key in _NUMBERS if key in record]
        except (ValueError, TypeError) as error:
            raise WorkdirError(f"{path}, line {number}, is not a JSON object: {error}") from error
        if "step" not in record or not all(isinstance(value, (int, float)) for value in values):
            raise WorkdirError(
                f"{path}, line {number}, needs a step, and numbers for {', '.join(_NUMBERS)}."
            )
        records.append(record)
    return records
