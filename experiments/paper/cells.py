"""Rows of the report's tables: seeds of one kind of run together, and nothing filled in."""

from __future__ import annotations

import statistics
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.paper.archived_runs import ArchivedRun
from mamlpp_jax.artifacts.results import Evaluation
from mamlpp_jax.reports.tables import markdown_table

NO_RUN = "no run"
# The columns of accuracies: statistics in the test, and the model.
ACCURACIES = [f"{mode}, {model}" for mode in ("batch", "support") for model in ("best", "ensemble")]


class Legend:
    """Short signs for the hardware and commits of a table, explained below it."""

    def __init__(self) -> None:
        self._signs: dict[str, str] = {}

    def signs(self, runs: Iterable[ArchivedRun]) -> str:
        """Returns the signs of where the runs were made, such as "a, b"."""
        places = dict.fromkeys(run.place for run in runs if run.place)
        return ", ".join(self._sign(place) for place in places)

    def _sign(self, place: str) -> str:
        times, letter = divmod(len(self._signs), 26)
        return self._signs.setdefault(place, string.ascii_lowercase[letter] * (1 + times))

    def __str__(self) -> str:
        return "\n".join(f"- {sign}: {place}" for place, sign in self._signs.items())


class Group(NamedTuple):
    """Runs that differ in nothing but their seeds."""

    runs: list[ArchivedRun]  # those with results, and those that diverged; at least one
    planned: int  # how many seeds the table wants

    @property
    def with_results(self) -> list[ArchivedRun]:
        """The runs that did not diverge."""
        return [run for run in self.runs if run.results]

    @property
    def diverged(self) -> list[ArchivedRun]:
        """The runs that diverged."""
        return [run for run in self.runs if run.failure]

    @property
    def length(self) -> str:
        """Outer steps of the longest run, see `ArchivedRun.length`."""
        return max(self.runs, key=lambda run: run.steps).length

    @property
    def seeds(self) -> str:
        """How many seeds of how many, which, and which diverged."""
        done, failed = (
            ", ".join(str(run.seed) for run in runs) for runs in (self.with_results, self.diverged)
        )
        text = f"{len(self.with_results)} of {self.planned}"
        text += f" (seed {done})" if done else ""
        return f"{text}; diverged: seed {failed}" if failed else text


class Test(NamedTuple):
    """The conditions of a test beside statistics and model."""

    inner_steps: int
    condition: str  # see `ArchivedRun.condition`
    tasks: int


def tests_of(group: Group) -> dict[Test, dict[str, list[tuple[ArchivedRun, Evaluation]]]]:
    """The group's tests of the task of training: by conditions and column of `ACCURACIES`, those of each run."""
    tests: dict[Test, dict[str, list[tuple[ArchivedRun, Evaluation]]]] = {}
    for run in group.with_results:
        for test in run.own_tests:
            conditions = Test(test.inner_steps, run.condition(test), test.tasks)
            column = f"{test.eval_statistics}, {test.model}"
            tests.setdefault(conditions, {}).setdefault(column, []).append((run, test))
    return tests


class Cell(NamedTuple):
    """A planned row of a table."""

    names: Mapping[str, str]  # texts of its first columns
    runs: Sequence[ArchivedRun]  # runs that have been made for it, by any protocol
    planned: int = 1  # how many seeds it should have

    @property
    def groups(self) -> list[Group]:
        """The runs, apart where their protocols, lengths or settings differ.

        A run that diverged joins the first group of equal settings, whatever its length.
        """
        protocols = [run.protocol for run in self.runs]
        in_order = sorted(
            self.runs, key=lambda run: (protocols.index(run.protocol), bool(run.failure), run.seed)
        )
        by_key: dict[Any, list[ArchivedRun]] = {}
        for run in in_order:
            settings = (run.protocol, run.changed)
            same = [key for key in by_key if key[0] == settings] if run.failure else []
            by_key.setdefault(same[0] if same else (settings, run.steps), []).append(run)
        return [Group(runs, self.planned) for runs in by_key.values()]


# (group, legend) -> the further columns of its rows.
Columns = Callable[[Group, Legend], list[dict[str, str]]]


def make_table(
    cells: Iterable[Cell], columns: Columns, empty: Mapping[str, str], *notes: str
) -> str:
    """Makes a Markdown table of planned rows, with its legend and notes below.

    `columns` makes the further columns of a cell's group, a row or several; `empty` are those of a cell without runs.
    """
    legend, rows = Legend(), []
    for cell in cells:
        filled = [row for group in cell.groups for row in columns(group, legend)]
        rows += [{**cell.names, **row} for row in filled or [dict(empty)]]
    return "\n\n".join(filter(None, [markdown_table(rows), str(legend), *notes]))


def mean_and_spread(values: Sequence[float], form: str) -> str:
    """The mean, and of several values the sample standard deviation, each in the format `form`."""
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean
