"""Tables of brief runs, which compare parts of a method and no row of the paper."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

from experiments.paper import cells, runs as runs_lib
from experiments.paper.cells import NO_RUN, Group, Legend
from experiments.paper.kept_runs import KeptRun, load_kept
from experiments.paper.runs import Run
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


_RUNNING_NOTE = (
    "MAML++, one seed; test accuracy of the best epoch in percent ± half the 95 % interval over 600 test tasks, by the "
    "statistics of the test. The best epoch is that of the statistics in training. Predictions with `batch` depend on "
    "the other queries, the others do not."
)
_MODES = ("batch", "support", "running", "renorm")


def running_table(results: pathlib.Path) -> str:
    """A row per kind of statistics in training, a column per kind in the test.

    Args:
        results: as in `brief_table`.

    Raises:
        WorkdirError: as there.
    """

    def named(run: Run) -> dict[str, str]:
        trained_with = f"`{run.fields['norm.train_statistics']}`"
        if run.fields["norm.train_statistics"] == "renorm":
            at_once = run.fields.get("norm.hand_over") == 0.0
            trained_with += ", from the start" if at_once else ", handed over"
        return {"trained with": trained_with}

    return _row_per_run(results, runs_lib.running_statistics(), named, _tests, _RUNNING_NOTE)


_RATES_NOTE = (
    "mini-ImageNet 5-way 1-shot MAML++, second order from the start, 2 tasks a step, a constant outer rate, one seed. "
    "Accuracies in percent on 200 tasks: validation with `batch` after the outer steps above, test of the best epoch ± "
    "half its 95 % interval, by the statistics of the test. Loss: mean of the query loss in the first and the last "
    "epoch of training."
)


def rates_table(results: pathlib.Path) -> str:
    """A row per inner rate that training begins with, a column per validation.

    Args:
        results: as in `brief_table`.

    Raises:
        WorkdirError: as there.
    """

    def named(run: Run) -> dict[str, str]:
        return {"first inner rate": f"{run.fields['inner.learning_rate']}"}

    def filled(kept: KeptRun) -> dict[str, str]:
        validations = zip(*kept.series("val_accuracy"), strict=True)
        return {
            "loss": _first_and_last_loss(kept),
            **{f"{step:,} steps": f"{100 * value:.1f}" for step, value in validations},
            **{f"test, {mode}": value for mode, value in _tests(kept).items()},
        }

    return _row_per_run(results, runs_lib.inner_rates(), named, filled, _RATES_NOTE)


def _row_per_run(
    results: pathlib.Path,
    planned: Sequence[Run],
    named: Callable[[Run], dict[str, str]],
    filled: Callable[[KeptRun], dict[str, str]],
    note: str,
) -> str:
    legend, rows = Legend(), []
    for run in planned:
        kept = load_kept(results, run)
        if kept is None or not kept.results:
            rows.append({**named(run), "outer steps": NO_RUN if kept is None else "diverged"})
            continue
        length = Group([kept], 1).length
        made = legend.signs([kept])
        rows.append({**named(run), "outer steps": length, **filled(kept), "made": made})
    return cells.table(rows, legend, note)


def _tests(kept: KeptRun) -> dict[str, str]:
    """The tests of the best epoch, of as many tasks as configured, by their statistics."""
    tasks = kept.config["evaluation.tasks"]
    tests = {
        test.eval_statistics: test
        for test in kept.own_tests
        if (test.model, test.tasks) == ("best", tasks)
    }
    return {f"`{mode}`": cells.tested(tests[mode]) for mode in _MODES if mode in tests}


def _own_mode(kept: KeptRun) -> list[TestResult]:
    """The tests of the best epoch that differ from training in ways and number of tasks alone."""
    own = ("task.shot", "task.query", "train.inner_steps", "norm.train_statistics")
    wanted = ["best", "", *(kept.config[key] for key in own)]
    return [
        test
        for test in kept.results["test"]
        if [test.model, test.data, test.shot, test.query, test.inner_steps, test.eval_statistics]
        == wanted
    ]


def _cells(kept: KeptRun, test: TestResult, legend: Legend) -> dict[str, str]:
    return {
        "statistics": f"`{test.eval_statistics}`",
        "backbone": kept.config["model.name"],
        "outer steps": Group([kept], 1).length,
        "loss": _first_and_last_loss(kept),
        "ways in the test": str(test.way),
        "test tasks": f"{test.tasks:,}",
        "accuracy": cells.tested(test),
        "made": legend.signs([kept]),
    }


def _first_and_last_loss(kept: KeptRun) -> str:
    losses = kept.series("loss")[1]
    return f"{losses[0]:.3f} → {losses[-1]:.3f}"
