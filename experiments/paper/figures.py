"""The report's figure: accuracy over training."""

from __future__ import annotations

import io
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from experiments.paper.archived_runs import load_runs
from experiments.paper.cells import NO_RUN, Cell
from experiments.paper.runs import LISTS
from mamlpp_jax.reports.canvas import new_figure
from mamlpp_jax.utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLORS = {"maml": "#0072B2", "maml++": "#D55E00"}
_PROTOCOL = "short"


def figure_1(results: pathlib.Path) -> Figure:
    """Draws strided MAML against strided MAML++: validation accuracy over outer steps."""
    figure = new_figure(7.0, 4.5)
    axes = figure.subplots()
    absent = []
    for method, color in _COLORS.items():
        planned = [run for run in LISTS["figure1"](_PROTOCOL) if run.method == method]
        cell = Cell({"method": method}, load_runs(results, planned), len(planned))
        _draw_curves(axes, cell, color)
        absent += [] if cell.runs else [method]
    axes.set_title(f"Figure 1: 5-way 1-shot, strided ({_PROTOCOL})", fontsize=10)
    axes.set_xlabel("outer step")
    axes.set_ylabel("validation accuracy (%)")
    axes.grid(alpha=0.3)
    if axes.lines:
        for method in absent:
            axes.plot([], [], color=_COLORS[method], label=f"{method}: {NO_RUN}")
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, NO_RUN, transform=axes.transAxes, ha="center", size=14)
    return figure


def _draw_curves(axes: Axes, cell: Cell, color: str) -> None:
    """Draws, for each length and setting, a thin line per seed, and their mean as far as every seed got."""
    for group in cell.groups:
        label = f"{cell.names['method']}: {len(group.runs)} of {group.planned} seeds"
        label += f", {len(group.diverged)} diverged" if group.diverged else ""
        label += ", changed" if any(run.changed for run in group.runs) else ""
        validations = [run.validations() for run in group.runs]
        curves = [(steps, 100 * np.array(accuracies)) for steps, accuracies in validations]
        for steps, accuracy in curves:
            axes.plot(steps, accuracy, color=color, linewidth=0.8, alpha=0.5, label=label)
            label = "_"  # of the first run only
        if len(curves) > 1:
            length = min(len(steps) for steps, _ in curves)
            mean = np.mean([accuracy[:length] for _, accuracy in curves], axis=0)
            axes.plot(curves[0][0][:length], mean, color=color, linewidth=2.2)


def save(figure: Figure, folder: pathlib.Path, name: str) -> None:
    """Writes `name`.png and `name`.svg; an equal figure gives equal bytes."""
    import matplotlib

    # Dates, versions and random ids would make every file another one.
    nothing = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    with matplotlib.rc_context({"svg.hashsalt": name}):
        for suffix, metadata in nothing.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, metadata=metadata)
            write_atomically(folder / f"{name}.{suffix}", buffer.getvalue())
