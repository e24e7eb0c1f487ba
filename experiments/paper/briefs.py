"""The table of brief runs, which compare parts of a method and no row of the paper: every test of each."""

from __future__ import annotations

import pathlib

from experiments.paper import cells, runs as runs_lib
from experiments.paper.cells import NO_RUN, Group, Legend
from experiments.paper.kept_runs import KeptRun, load_kept
from mamlpp_jax.artifacts.results import TestResult

_NOTE = (
    "One seed; test accuracy of the best epoch in percent ± half the 95 % interval over test tasks; loss: mean of the "
    "query loss in the first and the last epoch of training. Trained and tested with the statistics in the second "
    "column. With more ways than in training, a head without a shared vector gives further classes the mean of its "
    "columns."
)


def brief_table(results: pathlib.Path) -> str:
    """A row per run and condition of its tests.

    Args:
        results: the folder with a folder per run.

    Raises:
        WorkdirError: a file of a run cannot be read or is not what `keep` writes.
    """
    lists = (runs_lib.task_norm(), runs_lib.shared_head(), runs_lib.resnet_12())
    legend, rows = Legend(), []
    for run in {run.name: run for planned in lists for run in planned}.values():
        names = {"run": f"{run.data} {run.way}-way {run.shot}-shot, `{run.method}`"}
        kept = load_kept(results, run)
        if kept is None or not kept.results:
            rows.append({**names, "statistics": NO_RUN if kept is None else "diverged"})
            continue
        rows += [{**names, **_cells(kept, test, legend)} for test in _own_mode(kept)]
    return cells.table(rows, legend, _NOTE)


def _own_mode(kept: KeptRun) -> list[TestResult]:
    mode = kept.config["norm.train_statistics"]
    tests: list[TestResult] = kept.results["test"]
    return [test for test in tests if (test.eval_statistics, test.model) == (mode, "best")]


def _cells(kept: KeptRun, test: TestResult, legend: Legend) -> dict[str, str]:
    losses = kept.series("loss")[1]
    return {
        "statistics": f"`{test.eval_statistics}`",
        "backbone": kept.config["model.name"],
        "outer steps": Group([kept], 1).length,
        "loss": f"{losses[0]:.3f} → {losses[-1]:.3f}",
        "ways in the test": str(test.way),
        "test tasks": f"{test.tasks:,}",
        "accuracy": f"{100 * test.accuracy:.2f} ± {100 * test.ci95:.2f}",
        "made": legend.signs([kept]),
    }
