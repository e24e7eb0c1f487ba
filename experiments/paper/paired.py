"""Methods beside MAML and options beside MAML++, paired over the same test tasks."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.paper.archived_runs import ArchivedRun, load_runs
from experiments.paper.cells import ACCURACIES, NO_RUN, Cell, Group, Legend, make_table
from experiments.paper.runs import SEEDS, Run, components, table_1
from mamlpp_jax.algorithms.metrics import half_interval
from mamlpp_jax.artifacts.results import Evaluation
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.config.fields import FIELDS

_NOTE = (
    "Test accuracy in percent. In brackets: the difference to the first row of the task ± half its 95 % interval over "
    "tasks. It is paired: both are tested on the same tasks; where the tasks are others, it is left out. One seed. "
    "The intervals say nothing about differences between seeds."
)

# Variants of MAML++ with one option each, in Omniglot 1-shot runs by the short protocol.
OPTIONS = ("average", "smoothing", "long_multi_step", "rate_decay")

# By the table's column: a test, and the accuracy on each of its tasks, None where that was not archived.
_Tests = Mapping[str, tuple[Evaluation, np.ndarray | None]]


def methods_table(results: pathlib.Path) -> str:
    """Makes a table of the methods on Omniglot 1-shot by the short protocol; tests on the most tasks alone."""
    planned = [
        run
        for run in (*components("short"), *table_1("short"))
        if run.shot == 1 and run.seed == SEEDS[0]
    ]
    return _paired_table(results, planned, "method")


def options_table(results: pathlib.Path) -> str:
    """Makes the same table of options beyond the paper, each beside plain MAML++."""
    planned = [
        Run("omniglot", way, 1, "maml++", "short", variant=variant)
        for way in (5, 20)
        for variant in ("", *OPTIONS)
    ]
    return _paired_table(results, planned, "variant")


def _paired_table(results: pathlib.Path, planned: Sequence[Run], label: str) -> str:
    """A row per run, named by an attribute of `Run`; others are compared with the first run of as many ways."""
    cells = [
        Cell({"way": str(run.way), label: getattr(run, label) or "none"}, load_runs(results, [run]))
        for run in planned
    ]
    first: dict[int, str] = {}
    for run in planned:
        first.setdefault(run.way, run.name)
    made = {run.name: run for cell in cells for run in cell.runs}
    by_way = {way: made.get(name) for way, name in first.items()}

    def columns(group: Group, legend: Legend) -> list[dict[str, str]]:
        (run,) = group.runs
        if not run.results:
            return [_empty("diverged")]
        rows = []
        for steps in sorted({test.inner_steps for test in run.own_tests}):
            reference = _reference(results, by_way.get(run.config["task.way"]), run, steps)
            rows.append(_row(run, _tests(results, run, steps), reference, legend))
        return rows

    return make_table(cells, columns, _empty(NO_RUN), _NOTE)


def _reference(
    results: pathlib.Path, plain: ArchivedRun | None, run: ArchivedRun, inner_steps: int
) -> _Tests:
    """The tests of `plain` with as many inner steps as in training, where a run's are others on the same tasks."""
    if plain is None or not plain.results or _test_tasks(plain) != _test_tasks(run):
        return {}
    own_steps = plain.config["train.inner_steps"]
    is_itself = (plain.name, own_steps) == (run.name, inner_steps)
    return {} if is_itself else _tests(results, plain, own_steps)


def _test_tasks(run: ArchivedRun) -> dict[str, Any]:
    """The fields that decide which tasks a run is tested on."""
    fields = {
        key: value
        for key, value in run.config.items()
        if key.startswith(("data.", "task.")) and not FIELDS[key].resumable
    }
    return {**fields, "seed": run.seed, "images": run.images}


def _tests(results: pathlib.Path, run: ArchivedRun, inner_steps: int) -> _Tests:
    """The tests of the run's own task with so many inner steps, on as many tasks as there are."""
    correct, tests = Workdir(results / run.name).correct_per_task(), {}
    for test in sorted(run.own_tests, key=lambda test: test.tasks):
        if test.inner_steps == inner_steps:
            right = correct.get(test.key)
            per_task = None if right is None else right / (test.way * test.query)
            tests[f"{test.eval_statistics}, {test.model}"] = (test, per_task)
    return tests


def _row(run: ArchivedRun, tests: _Tests, plain: _Tests, legend: Legend) -> dict[str, str]:
    steps = {test.inner_steps for test, _ in tests.values()}
    counts = sorted({test.tasks for test, _ in tests.values()})
    return {
        "inner steps": ", ".join(map(str, steps)),
        "outer steps": run.length,
        "test tasks": ", ".join(f"{count:,}" for count in counts),
        **{column: _accuracy(tests, plain, column) for column in ACCURACIES},
        "made": legend.signs([run]),
    }


def _accuracy(tests: _Tests, plain: _Tests, column: str) -> str:
    if column not in tests:
        return "not tested"
    test, ours = tests[column]
    _, theirs = plain.get(column, (None, None))
    text = f"{100 * test.accuracy:.2f}"
    if ours is None or theirs is None or len(ours) != len(theirs):
        return text
    gains = 100 * (ours - theirs)
    return f"{text} ({gains.mean():+.2f} ± {half_interval(gains):.2f})"


def _empty(why: str) -> dict[str, str]:
    columns = dict.fromkeys(ACCURACIES, why)
    return {"inner steps": "", "outer steps": why, "test tasks": "", **columns, "made": ""}
