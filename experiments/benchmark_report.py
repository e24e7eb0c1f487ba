"""The benchmark's files: a page, a figure and the rows as JSON."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments.benchmark_rows import Row
from mamlpp_jax.reports.canvas import new_figure, save_figure
from mamlpp_jax.utils.files import write_atomically

# Epochs of the paper's Omniglot schedule: (epochs, order, multi-step) of MAML++, and MAML's 150.
_SCHEDULE = ((10, 1, True), (40, 1, False), (100, 2, False))
_EPOCHS = 150
_COLUMNS = (
    "case",
    "implementation",
    "method",
    "order",
    "inner_steps",
    "multi_step",
    "tasks",
    "way",
    "shot",
    "conv",
    "dtype",
    "precision",
    "dispatch",
    "devices",
    "chunk",
    "remat",
    "ms_median",
    "ms_min",
    "compile_s",
    "cached_s",
    "peak_mib",
    "device_mib",
    "gflop",
    "matmul_share",
    "note",
)


@dataclasses.dataclass
class Report:
    """A benchmark so far.

    Attributes:
        hardware: as in a run's results.
        peak_gflops: of a large float32 matrix product on this machine.
        rows: what was measured.
    """

    hardware: dict[str, Any]
    peak_gflops: float
    rows: list[Row]


def write_report(report: Report, folder: pathlib.Path) -> None:
    """Writes the three files, each atomically."""
    rows = [dataclasses.asdict(row) for row in report.rows]
    write_atomically(folder / "benchmark.json", json.dumps(rows, indent=1).encode())
    write_atomically(folder / "benchmark.md", _page(report).encode())
    _draw(report, folder / "benchmark.png")


def _page(report: Report) -> str:
    hardware = ", ".join(f"{k} {v}" for k, v in report.hardware.items())
    parts = [
        "# Benchmark",
        f"Hardware: {hardware}. Fastest large float32 matrix product in this process: "
        f"{report.peak_gflops:.0f} GFLOP/s. Times are milliseconds of one outer step where the note says "
        "nothing else, of noise images. Compare rows of one report only.",
        *_conclusions(report.rows),
        "![time per outer step](benchmark.png)",
    ]
    for section in dict.fromkeys(row.section for row in report.rows):
        parts += [f"## {section}", _table(r for r in report.rows if r.section == section)]
    return "\n\n".join(parts) + "\n"


def _table(rows: Iterable[Row]) -> str:
    """A Markdown table of the columns in which some row says something."""
    listed = [dataclasses.asdict(row) for row in rows]
    columns = [c for c in _COLUMNS if any(row[c] not in (None, "") for row in listed)]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_text(row[c]) for c in columns) + " |" for row in listed]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _conclusions(rows: list[Row]) -> list[str]:
    lines = [
        *_ratios(rows),
        *_schedule_cost(rows),
        *_fits(rows),
        *_memory(rows),
        *_validations(rows),
        *_projection(rows),
    ]
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def _median(rows: Iterable[Row], **wanted: Any) -> float | None:
    """Median of `ms_median` over the rows with these fields."""
    found = [
        row.ms_median
        for row in rows
        if row.ms_median is not None and all(getattr(row, k) == v for k, v in wanted.items())
    ]
    return float(np.median(found)) if found else None


def _ratios(rows: list[Row]) -> list[str]:
    compared = [row for row in rows if row.section == "implementations"]
    lines = []
    for case in dict.fromkeys(row.case for row in compared):
        for order in (2, 1):
            here = _median(compared, case=case, order=order, implementation="ours")
            for other in ("pytorch", "naive_vmap"):
                there = _median(compared, case=case, order=order, implementation=other)
                if here and there:
                    lines.append(
                        f"{case}, order {order}: {here:.0f} ms, {other} {there:.0f} ms: "
                        f"{there / here:.2f} times as fast."
                    )
    return lines


def _schedule_cost(rows: list[Row]) -> list[str]:
    """Table 3's claim: MAML++ over its whole annealed schedule against MAML."""
    table = [row for row in rows if row.section == "table 3"]
    lines = []
    for steps in sorted({row.inner_steps for row in table}):
        maml = _median(table, method="maml", order=2, inner_steps=steps)
        parts = [
            _median(table, method="maml++", order=order, multi_step=multi, inner_steps=steps)
            for _, order, multi in _SCHEDULE
        ]
        if maml and all(parts):
            annealed = sum(n * (ms or 0.0) for (n, _, _), ms in zip(_SCHEDULE, parts, strict=True))
            lines.append(
                f"{steps} inner step(s), mean over the {_EPOCHS} epochs of the paper's Omniglot schedule: MAML++ "
                f"{annealed / _EPOCHS:.1f} ms, MAML {maml:.1f} ms: {annealed / _EPOCHS / maml:.2f} of its cost."
            )
    return lines


def _fits(rows: list[Row]) -> list[str]:
    tasks = [(r.tasks, r.ms_median) for r in rows if r.section == "scaling" and _is_plain(r, rows)]
    steps = [
        (r.inner_steps, r.ms_median)
        for r in rows
        if r.section == "table 3" and r.order == 2 and r.method == "maml++" and r.multi_step
    ]
    return [
        f"Cost over {name}: {_fit(points)}"
        for name, points in (("tasks", tasks), ("inner steps", steps))
        if len(points) > 2
    ]


def _is_plain(row: Row, rows: list[Row]) -> bool:
    """Whether only the number of tasks differs from the first row of the section."""
    first = next(r for r in rows if r.section == row.section)
    return (row.way, row.shot) == (first.way, first.shot)


def _fit(points: list[tuple[int, float | None]]) -> str:
    x, y = (np.array(column, float) for column in zip(*points, strict=True))
    slope, start = np.polyfit(x, y, 1)
    rest = y - (start + slope * x)
    r2 = 1 - float(rest @ rest) / float(((y - y.mean()) ** 2).sum())
    return f"{start:.1f} + {slope:.1f} n ms, R^2 = {r2:.4f}."


def _memory(rows: list[Row]) -> list[str]:
    kept = {(r.inner_steps, r.remat): r.peak_mib for r in rows if r.section == "memory"}
    return [
        f"Memory of {steps} inner steps {'with' if remat else 'without'} remat: {mib:.0f} MiB."
        for (steps, remat), mib in kept.items()
        if mib is not None
    ]


def _validations(rows: list[Row]) -> list[str]:
    """What a validation costs in first-order outer steps with the multi-step loss."""
    here = [row for row in rows if row.section == "evaluation"]
    step = next((row for row in here if row.multi_step), None)
    if step is None or not step.ms_median:
        return []
    return [
        f"Validation on {row.tasks} tasks ({row.note.removeprefix('validation, ')}): {row.ms_median:.0f} ms, as much "
        f"as {row.ms_median / step.ms_median:.1f} first-order outer steps of {step.tasks} tasks."
        for row in here
        if not row.multi_step and row.ms_median
    ]


def _projection(rows: list[Row]) -> list[str]:
    """The paper's Omniglot 20-way 1-shot run of 75,000 steps and 16 tasks, from 8-task rows."""
    parts = {
        order: _median(
            rows,
            section="implementations",
            case="omniglot_20w1s",
            order=order,
            implementation="ours",
        )
        for order in (1, 2)
    }
    if not all(parts.values()):
        return []
    epochs = {1: 50, 2: 100}
    seconds = sum(2 * 1e-3 * (parts[o] or 0.0) * 500 * epochs[o] for o in (1, 2))
    return [
        "The paper's Omniglot 20-way 1-shot run (150 epochs of 500 steps, 16 tasks), projected from these rows "
        f"(multi-step loss throughout, validation left out): {seconds / 3600:.1f} hours."
    ]


def _draw(report: Report, path: pathlib.Path) -> None:
    """Left: ours against the others. Right: cost over inner steps."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    compared = [r for r in report.rows if r.section == "implementations"]
    labels = list(dict.fromkeys((r.case, r.order) for r in compared))
    names = list(dict.fromkeys(r.implementation for r in compared))
    width = 0.8 / max(len(names), 1)
    for i, name in enumerate(names):
        heights = [
            _median(compared, case=case, order=order, implementation=name) or np.nan
            for case, order in labels
        ]
        left.bar(np.arange(len(labels)) + i * width, heights, width, label=name)
    left.set_xticks(
        np.arange(len(labels)) + 0.4 - width / 2,
        [f"{case}\norder {order}" for case, order in labels],
        fontsize=6,
    )
    left.set_yscale("log")
    left.set_ylabel("ms per outer step")
    if names:
        left.legend(frameon=False)
    table = [r for r in report.rows if r.section == "table 3"]
    for method, order, multi in dict.fromkeys((r.method, r.order, r.multi_step) for r in table):
        points = [
            (r.inner_steps, r.ms_median)
            for r in table
            if (r.method, r.order, r.multi_step) == (method, order, multi)
        ]
        label = f"{method}, order {order}{', multi-step loss' if multi else ''}"
        right.plot(*zip(*points, strict=True), marker="o", label=label)
    right.set_xlabel("inner steps")
    right.set_ylabel("ms per outer step")
    right.set_ylim(bottom=0)
    if table:
        right.legend(frameon=False, fontsize=7)
    save_figure(figure, path)
