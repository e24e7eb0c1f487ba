"""The report's tables as Markdown, from the archived runs."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Callable, Sequence

from experiments.paper.archived_runs import ArchivedRun, load_folder, load_runs
from experiments.paper.cells import (
    ACCURACIES,
    NO_RUN,
    Cell,
    Group,
    Legend,
    make_table,
    mean_and_spread,
    tests_of,
)
from experiments.paper.comparisons import OPTIONS, methods_table, options_table
from experiments.paper.published import ACCURACY, published_text
from experiments.paper.runs import LISTS, SEEDS, Run
from mamlpp_jax.artifacts.results import Evaluation
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.reports.tables import markdown_table
from mamlpp_jax.statistics import STATISTICS

# A protocol's runs are listed in this order.
PROTOCOLS = ("paper", "released", "compact", "short")
_ACCURACY_NOTE = (
    "Test accuracy in percent: mean ± sample standard deviation over seeds (none for one seed) [± half the 95 % "
    "interval over test tasks, or over test classes where it says so, mean over seeds]. `batch` and `support`: what "
    "normalises in the test, training uses `batch`; best: the single best epoch, ensemble: of the best ones. test: "
    "whether rotations of test characters are classes of their own, which is easier, and the queries of each class, of "
    "which `batch` depends."
)
# Rows of the table that README shows: names, data set and ways of the 1-shot tasks.
_SUMMARY = (
    ("Omniglot 5-way", "omniglot", 5),
    ("Omniglot 20-way", "omniglot", 20),
    ("mini-ImageNet 5-way", "mini_imagenet", 5),
)
_SUMMARY_NOTE = (
    "1-shot test accuracy in percent by the single best epoch and by the ensemble of the best ones (as published), "
    "transductive as in the paper: mean ± standard deviation over seeds [± half the 95 % interval over test tasks]."
)
_PER_STEP_NOTE = (
    "Test accuracy in percent of a model after each number of inner steps, one seed. Each row is one model, trained "
    "with its last number of steps; the paper's Table 2 has a model for each number."
)
_STATISTICS_NOTE = (
    "Test accuracy of the best epoch in percent ± half the 95 % interval over test tasks, one seed; a column per "
    "statistics that normalise in the test."
)
_OTHER_NOTE = (
    "Test accuracy in percent ± half the 95 % interval over test tasks; trained and tested with: the statistics that "
    "normalise; ensemble: of the best epochs, best: the single best one."
)


def all_tables(results: pathlib.Path) -> dict[str, str]:
    """Makes every table of the report; the keys are the names in markers.

    A folder that is missing, or a file of a run that is not what `keep` writes, is a `WorkdirError`.
    """
    if not results.is_dir():  # its report would say that nothing has been run
        raise WorkdirError(f"--results is {results}, which is no folder; it must hold one per run.")
    return {
        "summary": summary_table(results),
        "table1": accuracy_table(results, _listed("table1"), "shot", "method"),
        "table2": accuracy_table(results, _listed("table2"), "shot", "method", "steps"),
        "per_step": per_step_table(results, _listed("table2")),
        "table4": accuracy_table(results, _listed("table4"), "shot", "method"),
        "components": accuracy_table(results, _listed("components"), "method"),
        "methods": methods_table(results),
        "options": options_table(results),
        "figure1": accuracy_table(results, _listed("figure1"), "method"),
        "statistics": statistics_table(results),
        "other": other_table(results),
    }


def summary_table(results: pathlib.Path) -> str:
    """Makes a table of MAML and MAML++ beside the published numbers: each by its longest runs and most test tasks."""
    rows = []
    for name, data, way in _SUMMARY:
        for method in ("maml", "maml++"):
            planned = [
                Run(data, way, 1, method, protocol, seed)
                for protocol in PROTOCOLS
                for seed in SEEDS
            ]
            cell = Cell({}, load_runs(results, planned), len(SEEDS))
            groups = [group for group in cell.groups if group.with_results]
            longest = max(groups, key=lambda group: group.runs[0].steps, default=None)
            last = _own_test(longest) if longest else {}
            known = ACCURACY.get((data, way, 1, method, 5))
            rows.append(
                {
                    "task": name,
                    "method": method,
                    "published": f"{known[0].percent} ({known[0].source})" if known else "unknown",
                    "best epoch": last.get("batch, best", NO_RUN),
                    "ensemble": last.get("batch, ensemble", NO_RUN),
                    "test": last.get("test", ""),
                    "protocol": last.get("protocol", ""),
                    "outer steps": last.get("outer steps", ""),
                    "seeds": last.get("seeds", ""),
                }
            )
    return f"{markdown_table(rows)}\n\n{_SUMMARY_NOTE}"


def _own_test(group: Group) -> dict[str, str]:
    """The row of the test under the runs' own conditions on most tasks; {} without one."""
    run = group.with_results[0]
    own = [t for t in run.own_tests if not t.rotated and t.query == run.config["task.query"]]
    if not own:
        return {}
    condition = run.condition(max(own, key=lambda test: test.tasks))
    return [row for row in _accuracies(group, Legend()) if row["test"] == condition][-1]


def _listed(name: str) -> list[Run]:
    """The runs of a list by every protocol; its order is that of the paper's."""
    return [run for protocol in PROTOCOLS for run in LISTS[name](protocol)]


def accuracy_table(results: pathlib.Path, planned: Sequence[Run], *labels: str) -> str:
    """Makes a table of runs over their seeds: a row per cell, protocol, length and number of test tasks.

    The first columns are attributes of `Run`, the labels.
    """

    def names(run: Run) -> dict[str, str]:
        columns = {
            label.replace("steps", "inner steps"): str(getattr(run, label)) for label in labels
        }
        if run.variant:  # the paper gives no numbers of the strided network
            return columns
        text = published_text(run.data, run.way, run.shot, run.method, run.steps)
        return {**columns, "published": text}

    empty = dict.fromkeys(ACCURACIES, NO_RUN)
    left = {"protocol": "", "outer steps": NO_RUN, "seeds": f"0 of {len(SEEDS)}", "test": ""}
    left["test tasks"] = ""
    cells = _cells(results, planned, names)
    return make_table(cells, _accuracies, {**left, **empty, "made": ""}, _ACCURACY_NOTE)


def _cells(
    results: pathlib.Path, planned: Sequence[Run], names: Callable[[Run], dict[str, str]]
) -> list[Cell]:
    """The cells of planned runs, which differ in more than protocol and seed."""
    by_cell: dict[str, list[Run]] = {}
    for run in planned:
        by_cell.setdefault(run._replace(protocol="", seed=0).name, []).append(run)
    return [
        Cell(names(runs[0]), load_runs(results, runs), len({run.seed for run in runs}))
        for runs in by_cell.values()
    ]


def _accuracies(group: Group, legend: Legend) -> list[dict[str, str]]:
    done = group.with_results
    tests: dict[tuple[str, int], dict[str, list[Evaluation]]] = {}
    for test, columns in tests_of(group).items():
        if test.inner_steps == done[0].config["train.inner_steps"]:
            tests[test.condition, test.tasks] = {
                column: [of for _, of in by_run] for column, by_run in columns.items()
            }
    tests = tests or {("", 0): {}}
    return [
        {
            "protocol": group.runs[0].protocol,
            "outer steps": group.length,
            "seeds": group.seeds,
            "test": condition,
            "test tasks": f"{tasks:,}" if tasks else "",
            **{name: _accuracy(columns.get(name, []), len(done)) for name in ACCURACIES},
            "made": legend.signs(done),
        }
        for (condition, tasks), columns in sorted(tests.items())
    ]


def _accuracy(tests: Sequence[Evaluation], runs: int) -> str:
    """Mean and spread over the seeds in percent, and the 95 % interval: over classes where all tests have that one."""
    if not tests:
        return "not tested" if runs else "diverged"
    text = mean_and_spread([100 * test.accuracy for test in tests], ".2f")
    by_class = all(test.ci95_by_class for test in tests)
    half = statistics.fmean(test.ci95_by_class if by_class else test.ci95 for test in tests)
    text += f" [± {100 * half:.2f}{' over classes' if by_class else ''}]"
    return text if len(tests) == runs else f"{text} ({len(tests)} of {runs} tested)"


def per_step_table(results: pathlib.Path, planned: Sequence[Run]) -> str:
    """Makes a table of one model each: its accuracy after 0 to S inner steps, by the statistics of the test."""

    def rows(group: Group, legend: Legend) -> list[dict[str, str]]:
        (run,) = group.runs
        tests = [
            test for test in run.own_tests if test.tasks == max(t.tasks for t in run.own_tests)
        ]
        return [
            {
                "outer steps": group.length,
                "test": f"`{test.eval_statistics}`, {test.model}, {test.tasks:,} tasks, {run.condition(test)}",
                **{str(k): f"{100 * value:.2f}" for k, value in enumerate(test.accuracy_per_step)},
                "made": legend.signs([run]),
            }
            for test in tests
        ]

    runs = [run for run in load_runs(results, planned) if run.results]
    cells = [Cell({"run": run.name}, [run]) for run in runs]
    return make_table(cells, rows, {}, _PER_STEP_NOTE) if cells else "No such runs."


def statistics_table(results: pathlib.Path) -> str:
    """Makes a table of the runs in no list and of no option: the best epoch's accuracy, a column per statistics."""
    runs = [
        run for run in _unlisted(results) if not any(f"-{name}-" in run.name for name in OPTIONS)
    ]
    tested = {test.eval_statistics for run in runs for test in run.tests}
    columns = [f"`{name}`" for name in STATISTICS if name in tested]

    def rows(group: Group, legend: Legend) -> list[dict[str, str]]:
        (run,) = group.runs
        cells: dict[tuple[str, str, int, int], dict[str, str]] = {}
        for test in run.tests:
            if test.model == "best":
                text = f"{100 * test.accuracy:.2f} ± {100 * test.ci95:.2f}"
                key = f"{test.way}, {test.shot}", run.condition(test), test.inner_steps, test.tasks
                cells.setdefault(key, {})[f"`{test.eval_statistics}`"] = text
        return [
            {
                "outer steps": group.length,
                "trained with": f"`{run.config['norm.train_statistics']}`",
                "ways, shots": task,
                "test": condition,
                "inner steps": str(inner_steps),
                "test tasks": f"{tasks:,}",
                **{column: accuracies.get(column, "") for column in columns},
                "made": legend.signs([run]),
            }
            for (task, condition, inner_steps, tasks), accuracies in cells.items()
        ] or [{"outer steps": group.length}]

    cells = [Cell({"run": run.name}, [run]) for run in runs]
    return make_table(cells, rows, {}, _STATISTICS_NOTE) if cells else "No such runs."


def _unlisted(results: pathlib.Path) -> list[ArchivedRun]:
    listed = {run.name for name in LISTS for run in _listed(name)}
    folders = sorted(path for path in results.glob("*") if path.is_dir())
    return [run for path in folders if path.name not in listed and (run := load_folder(path))]


def other_table(results: pathlib.Path) -> str:
    """Makes a table of the runs that are in no list."""
    cells = [Cell({"run": run.name}, [run]) for run in _unlisted(results)]
    return make_table(cells, _tests, {}, _OTHER_NOTE) if cells else "No other runs."


def _tests(group: Group, legend: Legend) -> list[dict[str, str]]:
    (run,) = group.runs
    return [
        {
            "outer steps": group.length,
            "trained with": f"`{test.train_statistics}`",
            "tested with": f"`{test.eval_statistics}`",
            "model": test.model,
            "data": test.data or "its own",
            "ways, shots": f"{test.way}, {test.shot}",
            "test": run.condition(test),
            "inner steps": str(test.inner_steps),
            "test tasks": f"{test.tasks:,}",
            "accuracy": f"{100 * test.accuracy:.2f} ± {100 * test.ci95:.2f}",
            "made": legend.signs([run]),
        }
        for test in run.tests
    ] or [{"outer steps": group.length}]
