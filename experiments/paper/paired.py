"""Tables of runs beside another one, paired over the same test tasks: methods beside MAML, options beside MAML++."""

from __future__ import annotations

import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.paper import cells, runs as runs_lib
from experiments.paper.cells import NO_RUN, Group, Legend
from experiments.paper.kept_runs import KeptRun, load_kept
from experiments.paper.runs import Run
from mamlpp_jax.algorithms.metrics import student_t95
from mamlpp_jax.artifacts.results import TestResult
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.config.fields import FIELDS

# (statistics in the test, model), the table's columns.
_COLUMNS = (("batch", "ensemble"), ("batch", "best"), ("support", "ensemble"), ("support", "best"))
_PAIRED = (
    "Test accuracy in percent. In brackets: the difference to the first row of the task ± half its 95 % interval over "
    "tasks. It is paired: both are tested on the same tasks; where the tasks are others, it is left out. One seed. "
)
_OPTIONS = (
    "`average` tests a moving average of the meta-parameters (train.average_decay), `smoothing` smooths the labels of "
    "the query loss (train.label_smoothing), `long_multi_step` keeps the multi-step loss for half the run "
    "(train.multi_step_epochs), `rate_decay` draws learned inner rates back to their start (inner.rate_decay, an "
    "option that was removed after commit 28e0004). More inner steps are taken in the test only."
)
_METHODS = "The intervals say nothing about differences between seeds."


class _Tested(NamedTuple):
    """A test and the accuracy on each of its tasks; None where that was not kept."""

    result: TestResult
    per_task: np.ndarray | None


_Tests = Mapping[tuple[str, str], _Tested]


def options_table(results: pathlib.Path) -> str:
    """A row per option, task and number of inner steps in the test; tests on the most tasks alone.

    Args:
        results: the folder with a folder per run.

    Raises:
        WorkdirError: a file of a run cannot be read or is not what `keep` writes.
    """
    named = [(run.variant or "none", run) for run in runs_lib.options()]
    return _table(results, "option", named, _PAIRED + _OPTIONS)


def methods_table(results: pathlib.Path) -> str:
    """A row per method of Table 1 on Omniglot 1-shot, beside MAML; else as `options_table`."""
    planned = (*runs_lib.components("short"), *runs_lib.table_1("short"))
    runs = [run for run in planned if run.shot == 1 and run.seed == runs_lib.SEEDS[0]]
    return _table(results, "method", [(run.method, run) for run in runs], _PAIRED + _METHODS)


def _table(results: pathlib.Path, label: str, named: Sequence[tuple[str, Run]], note: str) -> str:
    """The first run of each number of ways is what the others with it are compared with."""
    legend, rows = Legend(), []
    way = 0
    plain: _Tests = {}
    plain_tasks: dict[str, Any] = {}
    for name, run in named:
        names = {"way": str(run.way), label: name}
        is_first, way = run.way != way, run.way
        plain = {} if is_first else plain
        kept = load_kept(results, run)
        if kept is None or not kept.results:
            rows.append(_empty_row(names, NO_RUN if kept is None else "diverged"))
            continue
        for steps in sorted({test.inner_steps for test in kept.results["test"]}):
            tests = _tests(results / run.name, kept, steps)
            if not tests:  # with other ways or shots only
                continue
            if is_first and steps == kept.config["train.inner_steps"]:
                plain, plain_tasks = tests, _test_tasks(kept)
            paired = tests is not plain and _test_tasks(kept) == plain_tasks
            rows.append(_row(names, kept, tests, plain if paired else {}, legend))
    return cells.table(rows, legend, note)


def _tests(folder: pathlib.Path, kept: KeptRun, inner_steps: int) -> _Tests:
    """The tests of the run's own task with so many inner steps, on as many tasks as there are."""
    correct, found = Workdir(folder).correct_per_task(), {}
    own = ("way", "shot", "query")
    for test in sorted(kept.results["test"], key=lambda test: test.tasks):
        same = all(getattr(test, key) == kept.config[f"task.{key}"] for key in own)
        if same and not test.data and test.inner_steps == inner_steps:
            right = correct.get(test.key)
            per_task = None if right is None else right / (test.way * test.query)
            found[test.eval_statistics, test.model] = _Tested(test, per_task)
    return found


def _test_tasks(kept: KeptRun) -> dict[str, Any]:
    """What decides which tasks a run is tested on."""
    fields = {
        key: value
        for key, value in kept.config.items()
        if key.startswith(("data.", "task.")) and not (key in FIELDS and FIELDS[key].resumable)
    }
    return {**fields, "seed": kept.seed, "images": kept.images}


def _row(
    names: Mapping[str, str], kept: KeptRun, tests: _Tests, plain: _Tests, legend: Legend
) -> dict[str, str]:
    counts = sorted({tested.result.tasks for tested in tests.values()})
    steps = sorted({tested.result.inner_steps for tested in tests.values()})
    return {
        **names,
        "inner steps": ", ".join(str(count) for count in steps),
        "outer steps": Group([kept], 1).length,
        "test tasks": ", ".join(f"{count:,}" for count in counts),
        **{f"{mode}, {model}": _cell(tests, plain, (mode, model)) for mode, model in _COLUMNS},
        "made": legend.signs([kept]),
    }


def _cell(tests: _Tests, plain: _Tests, column: tuple[str, str]) -> str:
    if column not in tests:
        return "not tested"
    text = f"{100 * tests[column].result.accuracy:.2f}"
    ours = tests[column].per_task
    theirs = plain[column].per_task if column in plain else None
    if ours is None or theirs is None or len(ours) != len(theirs):
        return text
    gains = 100 * (ours - theirs)
    half = student_t95(len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains))
    return f"{text} ({gains.mean():+.2f} ± {half:.2f})"


def _empty_row(names: Mapping[str, str], why: str) -> dict[str, str]:
    columns = {f"{mode}, {model}": why for mode, model in _COLUMNS}
    return {**names, "inner steps": "", "outer steps": why, "test tasks": "", **columns, "made": ""}
