"""The report's figures: accuracy over training, the norm of the meta-gradient, the cost of an accuracy."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.paper import cells
from experiments.paper.cells import Group
from experiments.paper.comparisons import Comparison
from experiments.paper.kept_runs import KeptRun
from experiments.paper.runs import METHODS
from mamlpp_jax.reports.canvas import new_figure
from mamlpp_jax.utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLORS = dict(
    zip(
        METHODS,
        ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#666666", "#D55E00"),
        strict=True,
    )
)


def all_figures(compared: Sequence[Comparison]) -> dict[str, Figure]:
    """Every figure of the report by the name of its files.

    Args:
        compared: see `comparisons`; Figure 1's first.
    """
    return {
        "figure1": figure_1(compared[0]),
        "stability": stability_figure(compared),
        "cost": cost_figure(compared),
    }


def figure_1(comparison: Comparison) -> Figure:
    """Strided MAML against strided MAML++: validation accuracy over outer steps."""
    figure = new_figure(7.0, 4.5)
    axes = figure.subplots()
    _accuracy_curves(axes, comparison, comparison.methods, "step")
    _finish(axes, comparison, comparison.methods, "outer step", "validation accuracy (%)")
    return figure


def stability_figure(compared: Sequence[Comparison]) -> Figure:
    """The norm of the meta-gradient over outer steps; a cross where a run diverged."""
    figure = new_figure(6.0 * len(compared), 4.8)
    for axes, comparison in zip(np.ravel(figure.subplots(1, len(compared))), compared, strict=True):
        for method, label, group in _labelled(comparison, comparison.methods, diverged=True):
            for run in group.runs:
                steps, norms = run.series("grad_norm")
                axes.plot(steps, norms, color=_COLORS[method], linewidth=1.3, label=label)
                label = "_"  # of the first run only
                if run.failure and norms:
                    axes.plot(steps[-1], norms[-1], "x", color=_COLORS[method], markersize=9)
        if axes.lines:
            axes.set_yscale("log")
        _finish(
            axes,
            comparison,
            comparison.methods,
            "outer step",
            "meta-gradient norm, mean of an epoch",
        )
    return figure


def cost_figure(compared: Sequence[Comparison]) -> Figure:
    """MAML against MAML++: validation accuracy over outer steps, and over seconds of training."""
    figure = new_figure(6.0 * len(compared), 8.6)
    rows = figure.subplots(2, len(compared), squeeze=False)
    texts = ("step", "outer step"), ("seconds", "seconds of outer steps")
    for row, (unit, text) in zip(rows, texts, strict=True):
        for axes, comparison in zip(row, compared, strict=True):
            _accuracy_curves(axes, comparison, ["maml", "maml++"], unit)
            _finish(axes, comparison, ["maml", "maml++"], text, "validation accuracy (%)")
    return figure


def _accuracy_curves(axes: Axes, comparison: Comparison, methods: Sequence[str], unit: str) -> None:
    """Draws a thin line per seed and, over outer steps, the mean of a group's seeds as far as every seed got."""
    for method, label, group in _labelled(comparison, methods):
        curves = [_accuracy(*timed, unit) for timed in zip(group.runs, group.seconds, strict=True)]
        for x, accuracy in curves:
            color = _COLORS[method]
            axes.plot(x, accuracy, color=color, linewidth=0.8, alpha=0.5, label=label)
            label = "_"  # of the first run only
        if unit == "step" and len(curves) > 1:
            length = min(len(x) for x, _ in curves)
            mean = np.mean([accuracy[:length] for _, accuracy in curves], axis=0)
            axes.plot(curves[0][0][:length], mean, color=_COLORS[method], linewidth=2.2)


def _accuracy(run: KeptRun, seconds: list[float], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Outer steps or seconds of training [n], and validation accuracy in percent [n]."""
    steps, accuracy = run.series("val_accuracy")
    if unit == "step":
        return np.array(steps), 100 * np.array(accuracy)
    at_step = {row["step"]: second for row, second in zip(run.epochs, seconds, strict=True)}
    return np.array([at_step[step] for step in steps]), 100 * np.array(accuracy)


def _labelled(
    comparison: Comparison, methods: Sequence[str], diverged: bool = False
) -> list[tuple[str, str, Group]]:
    """A method, what the legend calls it and its runs; one group for each length and setting."""
    found = []
    for method in methods:
        for group in cells.groups(comparison.kept[method], comparison.planned[method]):
            failed = sum(bool(run.failure) for run in group.runs)
            counted = f"{len(group.runs)} of {group.planned} seeds"
            label = f"{method}: {counted}"
            if diverged or failed:
                label += f", {failed} diverged"
            if any(run.changed for run in group.runs):
                label += ", changed"
            found.append((method, label, group))
    return found


def _finish(axes: Axes, comparison: Comparison, methods: Sequence[str], x: str, y: str) -> None:
    """Names the axes, and the methods without a run."""
    axes.set_title(f"{comparison.title} ({comparison.protocol})", fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if axes.lines:
        for method in methods:
            if not comparison.kept[method]:
                axes.plot([], [], color=_COLORS[method], label=f"{method}: {cells.NO_RUN}")
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, cells.NO_RUN, transform=axes.transAxes, ha="center", size=14)


def save(figure: Figure, folder: pathlib.Path, name: str) -> None:
    """Writes `name`.png and `name`.svg; an equal figure gives equal bytes.

    Raises:
        WorkdirError: a file cannot be written.
    """
    import matplotlib

    # Dates, versions and random ids would make every file another one.
    nothing = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    with matplotlib.rc_context({"svg.hashsalt": name}):
        for suffix, metadata in nothing.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, metadata=metadata)
            write_atomically(folder / f"{name}.{suffix}", buffer.getvalue())
