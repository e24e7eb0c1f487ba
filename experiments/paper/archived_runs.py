"""Reads what `experiments.paper.keep` archived of a run, and how it differs from the run that was planned."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.paper.runs import EPOCHS_FILE, FAILURE_FILE, Run
from mamlpp_jax import config as config_lib
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.provenance import describe
from mamlpp_jax.artifacts.results import Evaluation
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli.config_files import load_config
from mamlpp_jax.config.fields import FIELDS
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.statistics import STATISTICS
from mamlpp_jax.utils.files import exists, read_json, wrap_os_errors

# A folder in which these differ from its name holds another run.
_IDENTITY = (
    *("experiment", "method", "protocol", "seed", "data.name"),
    *("task.way", "task.shot", "train.inner_steps"),
)


@dataclasses.dataclass(frozen=True)
class ArchivedRun:
    """A run that has been made, or that diverged."""

    name: str  # name of its folder
    config: dict[str, Any]  # its fields by name, such as "train.epochs"
    changed: tuple[str, ...]  # fields that differ from the planned run's, as "train.epochs=3"
    # Outer steps of the same run in full; of the paper's protocol, unless its own is "released"
    full_steps: int
    epochs: list[dict[str, Any]]  # a record per epoch, see `keep.epoch_records`
    # Content of `results.json` with `Evaluation`s; {} for a run that diverged
    results: dict[str, Any]
    failure: str  # why it has no results; "" for a run that has
    images: str  # SHA-256 of the images of its data

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    @property
    def protocol(self) -> str:
        """The run's protocol."""
        return str(self.config["protocol"])

    @property
    def steps(self) -> int:
        """Outer steps done."""
        done = self.epochs[-1]["step"] if self.epochs else 0
        return int(self.results.get("steps", done))

    @property
    def failed_step(self) -> int:
        """The outer step at which the run diverged, or the last one there is of it."""
        match = re.search(r"outer step (\d+)", self.failure)
        return int(match[1]) if match else self.steps

    @property
    def length(self) -> str:
        """Outer steps, marked where the run is shortened, unfinished or changed."""
        marks = [] if self.steps >= self.full_steps else [f"shortened from {self.full_steps:,}"]
        marks += ["not finished"] if self.results and not self.results["finished"] else []
        marks += [f"changed: {', '.join(self.changed)}"] if self.changed else []
        done = f"{self.steps:,}" if self.results else f"diverged at {self.failed_step:,}"
        return "; ".join([done, *marks])

    @property
    def tests(self) -> list[Evaluation]:
        """All tests; none of a run that diverged."""
        return list(self.results.get("test", ()))

    @property
    def own_tests(self) -> list[Evaluation]:
        """The tests of the task of training: of any number of tasks, inner steps and queries, rotated or not."""
        own = [self.config[f"task.{key}"] for key in ("way", "shot")]
        return [test for test in self.tests if not test.data and [test.way, test.shot] == own]

    def condition(self, test: Evaluation) -> str:
        """What a test depends on beside its statistics, such as "rotated, 1 query": see `Evaluation.rotated`."""
        queries = f"{test.query} {'query' if test.query == 1 else 'queries'}"
        if test.data or not self.config["data.rotations"]:
            return queries
        own = "yes" if self.config["data.rotate_evaluation"] else "no"
        return f"{'' if (test.rotated or own) == 'yes' else 'not '}rotated, {queries}"

    @property
    def processors(self) -> set[str]:
        """Processor or accelerator, and version of JAX; several where the run went on elsewhere."""
        places = filter(None, self.place.split("; then "))
        return {re.sub(r", \d+ devices?|, commit .*", "", place) for place in places}

    @property
    def place(self) -> str:
        """The hardware and the commit, more than one where a run went on elsewhere; "" where nothing says."""
        tested = describe(self.results) if self.results else ""
        places = [record.get("made", tested) for record in self.epochs]
        return "; then ".join(dict.fromkeys(filter(None, places)))

    def validations(self) -> tuple[list[int], list[float]]:
        """Returns outer steps and validation accuracies, of the epochs that have a finite one."""
        rows = [row for row in self.epochs if math.isfinite(row.get("val_accuracy", math.nan))]
        return [row["step"] for row in rows], [row["val_accuracy"] for row in rows]


def planned_config(run: Run) -> ConfigDict:
    """Returns the configuration that the command of a run asks for."""
    config = load_config(f"configs/{run.data}.py:{run.argument}")
    config.update_from_flattened_dict(dict(run.fields))
    return config


def load_run(results: pathlib.Path, run: Run) -> ArchivedRun | None:
    """Reads a run; None when nothing is archived of it, or only a part that was being copied.

    Raises:
        WorkdirError: a file cannot be read, is not what `keep` writes, or is of another run.
    """
    archived = load_folder(results / run.name)
    if archived is None:
        return None
    planned = dict(config_lib.flatten(planned_config(run)))
    if wrong := [key for key in _IDENTITY if archived.config.get(key) != planned[key]]:
        here = ", ".join(f"{key}={archived.config.get(key)!r}" for key in wrong)
        raise WorkdirError(
            f"{results / run.name} holds another run than its name says: it has {here}. Give the folder the name "
            "of its run, or remove it."
        )
    protocol = "released" if run.protocol == "released" else "paper"
    in_full = planned_config(run._replace(protocol=protocol, fields={}))
    steps = config_lib.total_steps(in_full)
    changed = _changed(planned, archived.config)
    return dataclasses.replace(archived, changed=changed, full_steps=steps)


def load_runs(results: pathlib.Path, runs: Sequence[Run]) -> list[ArchivedRun]:
    """Reads what there is of the runs, in their order; see `load_run`."""
    return [archived for run in runs if (archived := load_run(results, run))]


def load_folder(folder: pathlib.Path) -> ArchivedRun | None:
    """Reads a folder whose planned run is not known: nothing in it counts as changed; see `load_run`."""
    results = Workdir(folder).results()
    has_failed = exists(folder / FAILURE_FILE)
    if results is None and not has_failed:
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
    data = read_json(folder / "data.json")
    return ArchivedRun(
        name=folder.name,
        config=config,
        changed=(),
        full_steps=config["train.epochs"] * config["train.steps_per_epoch"],
        epochs=read_metrics(folder, EPOCHS_FILE),
        results=results or {},
        failure=failure,
        images=str(data.get("sha256")) if isinstance(data, dict) else "",
    )


def _changed(planned: dict[str, Any], config: dict[str, Any]) -> tuple[str, ...]:
    """Fields that changed what was computed."""
    silent = {key for key, field in FIELDS.items() if field.resumable}
    if not STATISTICS[config["norm.train_statistics"]].annealed:
        silent.add("norm.hand_over")
    return tuple(
        f"{key}={value}"
        for key, value in sorted(config.items())
        if planned[key] != value and key not in silent
    )
