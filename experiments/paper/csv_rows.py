"""One row per evaluation of the archived runs, for readers with tools of their own."""

from __future__ import annotations

import csv
import io
import pathlib
from typing import Any

from experiments.paper.archived_runs import ArchivedRun, load_folder
from mamlpp_jax.artifacts.results import Evaluation

_OF_CONFIG = {
    "data": "data.name",
    "method": "method",
    "protocol": "protocol",
    "seed": "seed",
    "trained_way": "task.way",
    "trained_shot": "task.shot",
}
_OF_TEST = (
    *("model", "train_statistics", "eval_statistics", "way", "shot", "query", "inner_steps"),
    *("tasks", "accuracy", "ci95", "ci95_by_class"),
)


def results_csv(results: pathlib.Path) -> str:
    """The content of `results.csv`: accuracies and half intervals are fractions, 0 for an unknown one."""
    folders = sorted(path for path in results.glob("*") if path.is_dir())
    rows = [_row(run, test) for path in folders if (run := load_folder(path)) for test in run.tests]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else ["run"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(run: ArchivedRun, test: Evaluation) -> dict[str, Any]:
    return {
        "run": run.name,
        **{column: run.config[field] for column, field in _OF_CONFIG.items()},
        "protocol_version": run.results.get("protocol_version", 1),
        "outer_steps": run.steps,
        "tested_on": test.data or "its own test classes",
        "condition": run.condition(test),
        **{name: getattr(test, name) for name in _OF_TEST},
        "made": run.place,
    }
