"""Cells of the report's tables: seeds of one kind of run together, and nothing filled in."""

from __future__ import annotations

import itertools
import math
import statistics
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.paper.kept_runs import KeptRun
from mamlpp_jax.artifacts.results import TestResult
from mamlpp_jax.reports.tables import markdown_table

NO_RUN = "no run"
_ACCURACIES = tuple(itertools.product(("batch", "support"), ("ensemble", "best")))


class Legend:
    """Short signs for the hardware and commits of a table, explained below it."""

    def __init__(self) -> None:
        self._signs: dict[str, str] = {}

    def signs(self, runs: Iterable[KeptRun]) -> str:
        """The signs of where the runs were made, such as "a, b"."""
        places = dict.fromkeys(run.made for run in runs if run.made)
        return ", ".join(self._sign(place) for place in places)

    def _sign(self, place: str) -> str:
        number, letters = len(self._signs), string.ascii_lowercase
        new = letters[number % 26] * (1 + number // 26)
        return self._signs.setdefault(place, new)

    def __str__(self) -> str:
        return "\n".join(f"- {sign}: {place}" for place, sign in self._signs.items())


class Group(NamedTuple):
    """Runs that differ in nothing but their seeds.

    Attributes:
        runs: those with results, and those that diverged; at least one.
        planned: how many seeds the table wants.
    """

    runs: list[KeptRun]
    planned: int

    @property
    def with_results(self) -> list[KeptRun]:
        """The runs that did not diverge."""
        return [run for run in self.runs if run.results]

    @property
    def seconds(self) -> list[list[float]]:
        """Of each run's outer steps up to the end of each epoch, without compilation; NaN where times were not kept.

        Machines may do other work meanwhile, so a step counts as much as in the fastest epoch of those that were made
        alike and have the same order of derivatives and kind of loss.
        """
        milliseconds: dict[Any, float] = {}
        for run in self.runs:
            for made, kind, record in zip(run.made_by_epoch, run.kinds, run.epochs, strict=True):
                key = (made or run.name, kind)
                found = record.get("ms_per_step", math.inf)
                milliseconds[key] = min(found, milliseconds.get(key, math.inf))
        totals = (
            itertools.accumulate(
                run.config["train.steps_per_epoch"] * milliseconds[made or run.name, kind] / 1000
                for made, kind in zip(run.made_by_epoch, run.kinds, strict=True)
            )
            for run in self.runs
        )
        return [[total if total < math.inf else math.nan for total in run] for run in totals]

    @property
    def length(self) -> str:
        """Outer steps, marked where a run is shortened, unfinished or changed."""
        run = max(self.runs, key=lambda run: run.steps)
        marks = [] if run.steps >= run.full_steps else [f"shortened from {run.full_steps:,}"]
        marks += ["not finished"] if run.results and not run.finished else []
        marks += [f"changed: {', '.join(run.changed)}"] if run.changed else []
        done = f"{run.steps:,}" if run.results else f"diverged at {run.failed_step:,}"
        return "; ".join([done, *marks])

    @property
    def seeds(self) -> str:
        """How many seeds of how many, which, and which diverged."""
        done = self.with_results
        text = f"{len(done)} of {self.planned}"
        if done:
            text += f" (seed {', '.join(str(run.seed) for run in done)})"
        failed = [str(run.seed) for run in self.runs if run.failure]
        return f"{text}; diverged: seed {', '.join(failed)}" if failed else text


def groups(runs: Sequence[KeptRun], planned: int) -> list[Group]:
    """Runs of one cell and protocol, apart where their lengths or settings differ.

    A run that diverged joins the first group of equal settings, whatever its length.
    """
    found: dict[Any, list[KeptRun]] = {}
    for run in runs:
        if run.results:
            found.setdefault((run.changed, run.steps), []).append(run)
    for run in runs:
        if not run.results:
            key = next((key for key in found if key[0] == run.changed), (run.changed, -1))
            found.setdefault(key, []).append(run)
    return [Group(sorted(same, key=lambda run: run.seed), planned) for same in found.values()]


def accuracy_cells(group: Group, legend: Legend) -> list[dict[str, str]]:
    """The right-hand columns of an accuracy table: a row per number of test tasks."""
    done = group.with_results
    counts = sorted({test.tasks for run in done for test in run.own_tests})
    return [
        {
            "outer steps": group.length,
            "seeds": group.seeds,
            "test tasks": f"{tasks:,}" if tasks else "",
            **{
                f"{mode}, {model}": accuracy(done, tasks, mode, model)
                for mode, model in _ACCURACIES
            },
            "made": legend.signs(done),
        }
        for tasks in counts or [0]
    ]


def empty_cells(planned: int) -> dict[str, str]:
    """The same columns where there is none of the planned runs."""
    cells = {f"{mode}, {model}": NO_RUN for mode, model in _ACCURACIES}
    return {
        "outer steps": NO_RUN,
        "seeds": f"0 of {planned}",
        "test tasks": "",
        **cells,
        "made": "",
    }


def accuracy(runs: Sequence[KeptRun], tasks: int, mode: str, model: str) -> str:
    """Mean and spread over the runs in percent, and the 95 % interval over tasks.

    Args:
        runs: of different seeds.
        tasks: how many were tested.
        mode: statistics in the test.
        model: "ensemble" or "best".
    """
    if not runs:
        return "diverged"
    tests = [_test(run, tasks, mode, model) for run in runs]
    found = [test for test in tests if test is not None]
    if not found:
        return "not tested"
    text = mean_and_spread([100 * test.accuracy for test in found], "{:.2f}".format)
    text += f" [± {100 * statistics.fmean(test.ci95 for test in found):.2f}]"
    return text if len(found) == len(runs) else f"{text} ({len(found)} of {len(runs)} tested)"


def tested(test: TestResult) -> str:
    """The accuracy of a test and half its interval in percent."""
    return f"{100 * test.accuracy:.2f} ± {100 * test.ci95:.2f}"


def _test(run: KeptRun, tasks: int, mode: str, model: str) -> TestResult | None:
    wanted = (tasks, mode, model)
    same = (t for t in run.own_tests if (t.tasks, t.eval_statistics, t.model) == wanted)
    return next(same, None)


def mean_and_spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The mean, and of several values the sample standard deviation."""
    mean = show(statistics.fmean(values))
    return f"{mean} ± {show(statistics.stdev(values))}" if len(values) > 1 else mean


def table(rows: Sequence[Mapping[str, str]], legend: Legend, *notes: str) -> str:
    """A Markdown table with what explains it below."""
    return "\n\n".join(filter(None, [markdown_table(rows), str(legend), *notes]))
