"""The report's tables as Markdown, from what is kept of the runs."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Callable, Sequence

from experiments.paper import cells, runs as runs_lib
from experiments.paper.briefs import brief_table, rates_table, running_table
from experiments.paper.cells import NO_RUN, Group, Legend
from experiments.paper.comparisons import Comparison, comparisons
from experiments.paper.kept_runs import KeptRun, load_all, load_folder
from experiments.paper.paired import methods_table, options_table
from experiments.paper.published import published_text
from experiments.paper.runs import Run

PROTOCOLS = ("paper", "released", "compact", "short")
_ACCURACY_NOTE = (
    "Test accuracy in percent: mean ± sample standard deviation over seeds (none for one seed) [± half the 95 % "
    "interval over test tasks, mean over seeds]. `batch` and `support`: what normalises in the test, training uses "
    "`batch`; ensemble: of the best epochs, best: the single best one."
)
_OTHER_NOTE = (
    "Test accuracy in percent ± half the 95 % interval over test tasks; trained and tested with: the statistics that "
    "normalise; ensemble: of the best epochs, best: the single best one."
)
# Lists whose runs are shown for every protocol; of the others those of the short one are.
_BY_PROTOCOL = ("table1", "table2", "table3", "table4", "components", "figure1")
_REACHED = (80, 90, 95, 97, 98, 99)  # percent


def all_tables(results: pathlib.Path) -> dict[str, str]:
    """Every table of the report by the name that its markers have.

    Args:
        results: the folder with a folder per run.

    Raises:
        WorkdirError: a file of a run cannot be read or is not what `keep` writes.
    """
    return {
        "table1": accuracy_table(results, runs_lib.table_1, "shot", "method"),
        "table2": accuracy_table(results, runs_lib.table_2, "shot", "method", "steps"),
        "table3": time_table(results),
        "table4": accuracy_table(results, runs_lib.table_4, "shot", "method"),
        "components": accuracy_table(results, runs_lib.components, "method"),
        "methods": methods_table(results),
        "figure1": accuracy_table(results, runs_lib.figure_1, "method"),
        "stability": stability_table(comparisons(results)),
        "cost": cost_table(comparisons(results)),
        "options": options_table(results),
        "brief": brief_table(results),
        "running": running_table(results),
        "rates": rates_table(results),
        "other": other_table(results),
    }


def accuracy_table(results: pathlib.Path, planned: Callable[[str], list[Run]], *labels: str) -> str:
    """Tables 1, 2 and 4, and the tests of Figure 1's runs: a row per cell, protocol and length.

    Args:
        results: as above.
        planned: the runs of the table by protocol.
        *labels: attributes of `Run` that are the first columns.
    """
    legend, rows = Legend(), []
    for cell in _cells(planned("paper")):
        names = {_column(label): str(getattr(cell, label)) for label in labels}
        if not cell.variant:  # the paper gives no numbers of the strided network
            known = published_text(cell.data, cell.way, cell.shot, cell.method, cell.steps)
            names["published"] = known
        found = [
            {**names, "protocol": protocol, **row}
            for protocol, group in _groups(results, planned, cell)
            for row in cells.accuracy_cells(group, legend)
        ]
        empty = cells.empty_cells(len(runs_lib.SEEDS))
        rows += found or [{**names, "protocol": "", **empty}]
    return cells.table(rows, legend, _ACCURACY_NOTE)


def time_table(results: pathlib.Path) -> str:
    """Table 3: milliseconds per outer step. MAML++ has cheaper and dearer epochs, so the last one is shown too."""
    legend, rows = Legend(), []
    for cell in _cells(runs_lib.table_3("paper")):
        names = {"inner steps": str(cell.steps), "method": cell.method, "published": "unknown"}
        found = [
            {
                **names,
                "protocol": protocol,
                "outer steps": group.length,
                "seeds": group.seeds,
                "ms per step, mean": _milliseconds(group, statistics.fmean),
                "ms per step, last epoch": _milliseconds(group, lambda values: values[-1]),
                "made": legend.signs(group.with_results),
            }
            for protocol, group in _groups(results, runs_lib.table_3, cell)
        ]
        empty = dict.fromkeys(("ms per step, mean", "ms per step, last epoch"), NO_RUN)
        none = {"protocol": "", "outer steps": NO_RUN, "seeds": "0 of 1", **empty, "made": ""}
        rows += found or [{**names, **none}]
    note = (
        "The median over an epoch's dispatches leaves compilation out; the mean is over epochs, ± over seeds. Compare "
        "rows of the same machine only."
    )
    return cells.table(rows, legend, note)


def _milliseconds(group: Group, reduce: Callable[[list[float]], float]) -> str:
    values = [run.series("ms_per_step")[1] for run in group.with_results]
    if not any(values):
        return "not measured" if values else "diverged"
    return cells.mean_and_spread([reduce(times) for times in values if times], "{:.0f}".format)


def _cells(planned: Sequence[Run]) -> list[Run]:
    """A run per cell of a table: those of the first seed."""
    first = planned[0].seed
    return [run for run in planned if run.seed == first]


def _groups(
    results: pathlib.Path, planned: Callable[[str], list[Run]], cell: Run
) -> list[tuple[str, Group]]:
    """What has been made for a cell, by protocol."""
    found = []
    for protocol in PROTOCOLS:
        like = cell._replace(protocol=protocol)
        same = [run for run in planned(protocol) if run._replace(seed=like.seed) == like]
        kept = load_all(results, same)
        found += [(protocol, group) for group in cells.groups(kept, len(same))]
    return found


def _column(label: str) -> str:
    return "inner steps" if label == "steps" else label


def stability_table(compared: Sequence[Comparison]) -> str:
    """Per method the runs that diverged and the size of the meta-gradient."""
    legend, rows = Legend(), []
    for comparison in compared:
        for method in comparison.methods:
            kept, planned = comparison.kept[method], comparison.planned[method]
            names = {"task": comparison.title, "method": method, "protocol": comparison.protocol}
            found = [
                {
                    **names,
                    "outer steps": group.length,
                    "seeds": group.seeds,
                    "diverged": f"{sum(map(bool, (r.failure for r in group.runs)))} of {len(group.runs)}",
                    "gradient norm, median": _norm(group, "grad_norm", statistics.median),
                    "gradient norm, largest": _norm(group, "grad_norm_max", max),
                    "made": legend.signs(group.runs),
                }
                for group in cells.groups(kept, planned)
            ]
            none = {"outer steps": NO_RUN, "seeds": f"0 of {planned}", "diverged": NO_RUN}
            rows += found or [names | none]
    note = (
        "Norm of the meta-gradient: the median is of the means of epochs, the largest of single outer steps, over all "
        "seeds and up to where a run diverged."
    )
    return cells.table(rows, legend, note)


def _norm(group: Group, key: str, reduce: Callable[[list[float]], float]) -> str:
    values = [value for run in group.runs for value in run.series(key)[1]]
    return f"{reduce(values):.3g}" if values else "not measured"


def cost_table(compared: Sequence[Comparison]) -> str:
    """Outer steps and their seconds until validation first reaches an accuracy, MAML against MAML++."""
    legend, rows = Legend(), []
    for comparison in compared:
        for method in ("maml", "maml++"):
            names = {"task": comparison.title, "method": method, "protocol": comparison.protocol}
            found = [
                _cost_row(group, percent, legend) | {"percent": str(percent)}
                for group in cells.groups(comparison.kept[method], comparison.planned[method])
                for percent in _REACHED
            ]
            rows += [
                {**names, "validation accuracy": f"{row.pop('percent')} %", **row} for row in found
            ] or [{**names, "validation accuracy": NO_RUN, "steps": NO_RUN, "seconds": NO_RUN}]
    note = (
        "Outer steps and their seconds until validation (`batch`, after each epoch) first reaches the accuracy: mean ± "
        "sample standard deviation over the seeds that reach it. Machines did other work too: a step counts as much as "
        "in the fastest epoch of the row's runs with the same order of derivatives and kind of loss, so seconds are "
        "upper bounds. Compare those of the same machine only."
    )
    return cells.table(rows, legend, note)


def _cost_row(group: Group, percent: int, legend: Legend) -> dict[str, str]:
    timed = zip(group.runs, group.seconds, strict=True)
    found = [cost for run, seconds in timed if (cost := cost_to_reach(run, seconds, percent / 100))]
    steps = seconds = "not reached"
    if found:
        steps = cells.mean_and_spread([step for step, _ in found], "{:,.0f}".format)
        seconds = cells.mean_and_spread([second for _, second in found], "{:,.0f}".format)
    return {
        "steps": steps,
        "seconds": seconds,
        "reached by": f"{len(found)} of {len(group.runs)} runs",
        "outer steps": group.length,
        "seeds": group.seeds,
        "made": legend.signs(group.runs),
    }


def cost_to_reach(run: KeptRun, seconds: list[float], accuracy: float) -> tuple[int, float] | None:
    """Outer steps and their seconds until validation first reaches an accuracy; None if it never does."""
    for record, second in zip(run.epochs, seconds, strict=True):
        if record.get("val_accuracy", 0.0) >= accuracy:
            return record["step"], second
    return None


def other_table(results: pathlib.Path) -> str:
    """The tests of kept runs that no other table has, such as those of variants: a row per test."""
    listed = {
        run.name
        for name, planned in runs_lib.LISTS.items()
        for protocol in (PROTOCOLS if name in _BY_PROTOCOL else ("short",))
        for run in planned(protocol)
    }
    folders = sorted(path for path in results.glob("*") if path.is_dir())
    kept = [run for path in folders if path.name not in listed and (run := load_folder(path))]
    legend = Legend()
    rows = [row for run in kept for row in _other_rows(run, legend)]
    return cells.table(rows, legend, _OTHER_NOTE) if rows else "No other runs."


def _other_rows(run: KeptRun, legend: Legend) -> list[dict[str, str]]:
    group = Group([run], 1)
    names = {"run": run.name, "outer steps": group.length}
    return [
        {
            **names,
            "trained with": f"`{test.train_statistics}`",
            "tested with": f"`{test.eval_statistics}`",
            "model": test.model,
            "data": test.data or "its own",
            "ways, shots": f"{test.way}, {test.shot}",
            "inner steps": str(test.inner_steps),
            "test tasks": f"{test.tasks:,}",
            "accuracy": cells.tested(test),
            "made": legend.signs([run]),
        }
        for test in run.results.get("test", ())
    ] or [names]
