"""The table of options that may raise accuracy: each against plain MAML++ on the same test tasks."""

from __future__ import annotations

import math
import pathlib
import statistics
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.paper import cells, runs as runs_lib
from experiments.paper.cells import NO_RUN, Group, Legend
from experiments.paper.kept_runs import KeptRun, load_kept
from experiments.paper.runs import Run
from mamlpp_jax.algorithms.metrics import student_t95
from mamlpp_jax.artifacts.results import TestResult
from mamlpp_jax.artifacts.workdir import Workdir

# (statistics in the test, model), the table's columns.
_COLUMNS = (("batch", "ensemble"), ("batch", "best"), ("support", "ensemble"), ("support", "best"))
_NOTE = (
    "Test accuracy in percent, and in brackets the difference to the first row of the task with half its 95 % "
    "interval, paired over the same test tasks of the same model. `average` tests a moving average of the "
    "meta-parameters (train.average_decay), `smoothing` smooths the labels of the query loss "
    "(train.label_smoothing), `long_multi_step` keeps the multi-step loss for half the run "
    "(train.multi_step_epochs), `rate_decay` draws learned inner rates back to their start (inner.rate_decay); one "
    "seed. More inner steps are taken in the test only."
)


class _Tested(NamedTuple):
    """A test and the accuracy on each of its tasks."""

    result: TestResult
    per_task: np.ndarray


_Tests = Mapping[tuple[str, str], _Tested]


def options_table(results: pathlib.Path) -> str:
    """A row per option, task and number of inner steps in the test; tests on the most tasks alone.

    Args:
        results: the folder with a folder per run.

    Raises:
        WorkdirError: a file of a run cannot be read or is not what `keep` writes.
    """
    legend, rows = Legend(), []
    plain: _Tests = {}
    for run in runs_lib.options():
        kept = load_kept(results, run)
        if kept is None or not kept.results:
            plain = plain if run.variant else {}
            rows.append(_empty_row(run, NO_RUN if kept is None else "diverged"))
            continue
        for steps in sorted({test.inner_steps for test in kept.results["test"]}):
            tests = _tests(results / run.name, kept, steps)
            trained = steps == kept.config["train.inner_steps"]
            if trained and not run.variant:
                plain = tests
            rows.append(_row(run, kept, tests, {} if tests is plain else plain, steps, legend))
    return cells.table(rows, legend, _NOTE)


def _tests(folder: pathlib.Path, kept: KeptRun, inner_steps: int) -> _Tests:
    """The tests of the run's own task with so many inner steps, on as many tasks as there are."""
    correct, found = Workdir(folder).correct_per_task(), {}
    own = ("way", "shot", "query")
    for test in sorted(kept.results["test"], key=lambda test: test.tasks):
        same = all(getattr(test, key) == kept.config[f"task.{key}"] for key in own)
        if same and not test.data and test.inner_steps == inner_steps and test.key in correct:
            per_task = correct[test.key] / (test.way * test.query)
            found[test.eval_statistics, test.model] = _Tested(test, per_task)
    return found


def _row(
    run: Run, kept: KeptRun, tests: _Tests, plain: _Tests, steps: int, legend: Legend
) -> dict[str, str]:
    counts = sorted({tested.result.tasks for tested in tests.values()})
    return {
        "way": str(run.way),
        "option": run.variant or "none",
        "inner steps": str(steps),
        "outer steps": Group([kept], 1).length,
        "test tasks": ", ".join(f"{count:,}" for count in counts),
        **{f"{mode}, {model}": _cell(tests, plain, (mode, model)) for mode, model in _COLUMNS},
        "made": legend.signs([kept]),
    }


def _cell(tests: _Tests, plain: _Tests, column: tuple[str, str]) -> str:
    if column not in tests:
        return "not tested"
    text = f"{100 * tests[column].result.accuracy:.2f}"
    if column not in plain or len(plain[column].per_task) != len(tests[column].per_task):
        return text
    gains = 100 * (tests[column].per_task - plain[column].per_task)
    half = student_t95(len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains))
    return f"{text} ({gains.mean():+.2f} ± {half:.2f})"


def _empty_row(run: Run, why: str) -> dict[str, str]:
    names = {"way": str(run.way), "option": run.variant or "none", "inner steps": ""}
    columns = {f"{mode}, {model}": why for mode, model in _COLUMNS}
    return {**names, "outer steps": why, "test tasks": "", **columns, "made": ""}
