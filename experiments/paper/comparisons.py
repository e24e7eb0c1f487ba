"""Methods beside MAML and options beside MAML++: differences between runs of the same seeds, over at least three."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.paper.archived_runs import ArchivedRun, load_runs
from experiments.paper.cells import (
    ACCURACIES,
    NO_RUN,
    Cell,
    Group,
    Legend,
    Test,
    make_table,
    mean_and_spread,
    tests_of,
)
from experiments.paper.runs import SEEDS, Run, components, table_1
from mamlpp_jax.config.fields import FIELDS

# Runs of one seed differ by half a point for nothing but their processor, so fewer seeds show no difference.
FEWEST_SEEDS = 3
# Behind numbers that are not of one processor and JAX with the first row's.
ELSEWHERE = "†"
_NOTE = (
    "Test accuracy in percent: mean ± standard deviation over seeds; a single number is of one seed. In brackets: the "
    "difference to the first row of the task, mean ± standard deviation over seeds, where at least "
    f"{FEWEST_SEEDS} seeds of both were tested on the same tasks. {ELSEWHERE}: not all runs of this row and the first "
    "one were made by one kind of processor and version of JAX."
)

# Variants of MAML++ with one option each, in Omniglot 1-shot runs by the short protocol.
OPTIONS = ("average", "smoothing", "long_multi_step", "rate_decay")


# By column and seed: the accuracy in percent, and what decides on which tasks it was tested.
_Accuracies = Mapping[str, Mapping[int, tuple[float, Any]]]
_NOTHING: _Accuracies = {}


def methods_table(results: pathlib.Path) -> str:
    """Makes a table of the methods on Omniglot 1-shot by the short protocol."""
    planned = [run for run in (*components("short"), *table_1("short")) if run.shot == 1]
    return _comparison(results, planned, "method")


def options_table(results: pathlib.Path) -> str:
    """Makes the same table of options beyond the paper, each beside plain MAML++."""
    planned = [
        Run("omniglot", way, 1, "maml++", "short", seed, variant=variant)
        for way in (5, 20)
        for variant in ("", *OPTIONS)
        for seed in SEEDS
    ]
    return _comparison(results, planned, "variant")


def _comparison(results: pathlib.Path, planned: Sequence[Run], label: str) -> str:
    """Rows of runs over their seeds, named by an attribute of `Run`, beside the first runs of as many ways."""
    by_cell: dict[tuple[int, str], list[Run]] = {}
    for run in planned:
        by_cell.setdefault((run.way, getattr(run, label)), []).append(run)
    cells = [
        Cell({"way": str(way), label: name or "none"}, load_runs(results, runs), len(SEEDS))
        for (way, name), runs in by_cell.items()
    ]
    first: dict[str, Group | None] = {}
    for cell in cells:
        first.setdefault(cell.names["way"], next(iter(cell.groups), None))

    def columns(group: Group, legend: Legend) -> list[dict[str, str]]:
        if not group.with_results:
            return [_empty("diverged")]
        plain = first[str(group.runs[0].config["task.way"])]
        return [_row(group, test, plain, legend) for test in _longest(group)]

    return make_table(cells, columns, _empty(NO_RUN), _NOTE)


def _longest(group: Group) -> list[Test]:
    """The tests of a group, of each condition that on most tasks."""
    longest: dict[Any, Test] = {}
    for test in sorted(tests_of(group)):
        longest[test._replace(tasks=0)] = test
    return list(longest.values())


def _row(group: Group, test: Test, plain: Group | None, legend: Legend) -> dict[str, str]:
    ours, theirs, mark = _by_seed(group, test), _NOTHING, ""
    if plain is not None and plain.with_results:
        same = group is plain or len(_processors(group) | _processors(plain)) == 1
        mark = "" if same else ELSEWHERE
        as_trained = test._replace(inner_steps=plain.with_results[0].config["train.inner_steps"])
        if group.runs[0].name != plain.runs[0].name or as_trained != test:
            theirs = _by_seed(plain, as_trained)
    return {
        "inner steps": str(test.inner_steps),
        "outer steps": group.length,
        "seeds": group.seeds,
        "test": test.condition,
        "test tasks": f"{test.tasks:,}",
        **{
            column: _accuracy(ours.get(column, {}), theirs.get(column, {}), mark)
            for column in ACCURACIES
        },
        "made": legend.signs(group.with_results),
    }


def _processors(group: Group) -> set[str]:
    return {processor for run in group.with_results for processor in run.processors}


def _by_seed(group: Group, test: Test) -> _Accuracies:
    return {
        column: {run.seed: (100 * of.accuracy, _test_tasks(run)) for run, of in by_run}
        for column, by_run in tests_of(group).get(test, {}).items()
    }


def _test_tasks(run: ArchivedRun) -> dict[str, Any]:
    """The length of a run, and what decides on which tasks it is tested; a test's conditions are compared apart."""
    fields = {
        key: value
        for key, value in run.config.items()
        if key.startswith(("data.", "task.")) and not FIELDS[key].resumable
    }
    return {**fields, "images": run.images, "outer steps": run.steps}


def _accuracy(
    ours: Mapping[int, tuple[float, Any]], theirs: Mapping[int, tuple[float, Any]], mark: str
) -> str:
    if not ours:
        return "not tested"
    text = mean_and_spread([accuracy for accuracy, _ in ours.values()], ".2f")
    gains = [
        accuracy - theirs[seed][0]
        for seed, (accuracy, tasks) in ours.items()
        if seed in theirs and theirs[seed][1] == tasks
    ]
    if len(gains) >= FEWEST_SEEDS:
        text += f" ({statistics.fmean(gains):+.2f} ± {statistics.stdev(gains):.2f})"
    return text + mark


def _empty(why: str) -> dict[str, str]:
    columns = dict.fromkeys(ACCURACIES, why)
    left = {"inner steps": "", "outer steps": why, "seeds": "", "test": "", "test tasks": ""}
    return {**left, **columns, "made": ""}
