"""The benchmark's files: a page, a figure and the rows as JSON."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.benchmark_rows import Row
from mamlpp_jax.reports.canvas import new_figure, save_figure
from mamlpp_jax.reports.tables import markdown_table
from mamlpp_jax.utils.files import write_atomically

# Epochs of the paper's Omniglot schedule: (epochs, order, multi-step) of MAML++, and MAML's 150.
_SCHEDULE = ((10, 1, True), (40, 1, False), (100, 2, False))
_EPOCHS = 150
_MAML = ("maml", 2, False)
_NOT_SHOWN = {"section", "runs"}


def write_report(
    folder: pathlib.Path, rows: Sequence[Row], hardware: Mapping[str, Any], peak_gflops: float
) -> None:
    """Writes the three files, each atomically; `peak_gflops` is the speed of a large float32 matrix product."""
    listed = [dataclasses.asdict(row) for row in rows]
    write_atomically(folder / "benchmark.json", json.dumps(listed, indent=1).encode())
    machine = ", ".join(f"{k} {v}" for k, v in hardware.items())
    parts = [
        "# Benchmark",
        f"Hardware: {machine}. Fastest large float32 matrix product in this process: "
        f"{peak_gflops:.0f} GFLOP/s. Times are milliseconds of one outer step where the note says "
        "nothing else, of noise images. Compare rows of one report only.",
        "\n".join(f"- {line}" for line in (*_ratios(rows), *_schedule_cost(rows))),
        "![time per outer step](benchmark.png)",
    ]
    for section in dict.fromkeys(row.section for row in rows):
        parts += [f"## {section}", _table([row for row in rows if row.section == section])]
    page = "\n\n".join(filter(None, parts)) + "\n"
    write_atomically(folder / "benchmark.md", page.encode())
    _draw(rows, folder / "benchmark.png")


def _table(rows: Sequence[Row]) -> str:
    """A Markdown table of the columns in which some row says something."""
    listed = [dataclasses.asdict(row) for row in rows]
    columns = [
        name
        for name in listed[0]
        if name not in _NOT_SHOWN and any(row[name] not in (None, "") for row in listed)
    ]
    return markdown_table([{name: _text(row[name]) for name in columns} for row in listed])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _medians(
    rows: Sequence[Row], section: str, index: Sequence[str], columns: Sequence[str]
) -> pd.DataFrame:
    """Median milliseconds of a section's rows, by the fields of `index` and `columns`."""
    frame = pd.DataFrame([dataclasses.asdict(row) for row in rows if row.section == section])
    if frame.empty:
        return frame
    return frame.pivot_table(
        index=list(index), columns=list(columns), values="ms_median", aggfunc="median", sort=False
    )


def _comparisons(rows: Sequence[Row]) -> pd.DataFrame:
    """Milliseconds by case and order, a column per implementation."""
    return _medians(rows, "implementations", ("case", "order"), ("implementation",))


def _ratios(rows: Sequence[Row]) -> list[str]:
    lines = []
    for (case, order), times in _comparisons(rows).iterrows():
        here = times["ours"]
        lines += [
            f"{case}, order {order}: {here:.0f} ms, {other} {there:.0f} ms: {there / here:.2f} times as fast."
            for other, there in times.drop("ours").dropna().items()
        ]
    return lines


def schedule_costs(rows: Sequence[Row]) -> dict[int, tuple[float, float]]:
    """Milliseconds of an outer step of MAML++ over its whole annealed schedule and of MAML, by inner steps: Table 3."""
    phases = [("maml++", order, multi_step) for _, order, multi_step in _SCHEDULE]
    times = _medians(rows, "table 3", ("inner_steps",), ("method", "order", "multi_step"))
    if not {_MAML, *phases} <= set(times.columns):
        return {}
    times = times[[_MAML, *phases]].dropna().sort_index()
    annealed = times[phases] @ [epochs / _EPOCHS for epochs, _, _ in _SCHEDULE]
    return {steps: (annealed[steps], maml) for steps, maml in times[_MAML].items()}


def _schedule_cost(rows: Sequence[Row]) -> list[str]:
    return [
        f"{steps} inner step(s), mean over the {_EPOCHS} epochs of the paper's Omniglot schedule: MAML++ "
        f"{annealed:.1f} ms, MAML {maml:.1f} ms: {annealed / maml:.2f} of its cost."
        for steps, (annealed, maml) in schedule_costs(rows).items()
    ]


def _draw(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Draws, left, ours against the others, and right, cost over inner steps."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    compared = _comparisons(rows)
    width = 0.8 / max(len(compared.columns), 1)
    for number, name in enumerate(compared):
        left.bar(np.arange(len(compared)) + number * width, compared[name], width, label=name)
    labels = [f"{case}\norder {order}" for case, order in compared.index]
    left.set_xticks(np.arange(len(labels)) + 0.4 - width / 2, labels, fontsize=6)
    left.set_yscale("log")
    left.set_ylabel("ms per outer step")
    if labels:
        left.legend(frameon=False)
    table = _medians(rows, "table 3", ("inner_steps",), ("method", "order", "multi_step"))
    for method, order, multi_step in table:
        label = f"{method}, order {order}{', multi-step loss' if multi_step else ''}"
        right.plot(table[method, order, multi_step].dropna(), marker="o", label=label)
    right.set_xlabel("inner steps")
    right.set_ylabel("ms per outer step")
    right.set_ylim(bottom=0)
    if not table.empty:
        right.legend(frameon=False, fontsize=7)
    save_figure(figure, path)
