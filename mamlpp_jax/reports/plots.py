"""Plots of a run: learning curves, accuracy per inner step, inner rates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mamlpp_jax.reports.canvas import new_figure
from mamlpp_jax.reports.tables import Rows
from mamlpp_jax.statistics import STATISTICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's colours, which colour-blind readers can tell apart.
_BLUE, _ORANGE, _GREEN, _RED, _PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
_GREY = "#666666"
# One for each of the statistics, the last for any other name.
_STYLES = ((_ORANGE, "o"), (_PURPLE, "^"), (_GREEN, "s"), (_RED, "D"), (_BLUE, "P"), (_GREY, "X"))

_MAX_POINTS = 1000  # of a raw curve; more are drawn as a band


# --- Learning curves ------------------------------------------------------------------------------


def learning_curves(metrics: Rows, way: int | None = None, multi_step_epochs: int = 0) -> Figure:
    """Draws loss and accuracy of training and of every validation, from rows of `metrics.jsonl`.

    The loss axis follows training and the first validation mode, the one that selects epochs.
    Another mode may diverge (to 1e35); its curve ends where it leaves the axis. The accuracy axis begins below the
    validations and what training reached after its first tenth. A line shows the accuracy of chance where the number
    of ways is given; the title says in how many epochs the loss of training weights all inner steps.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(10.0, 4.2)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    training = [row for row in metrics if "loss" in row]
    validation = [row for row in metrics if any(key.startswith("val_") for key in row)]
    smooth = _training_curve(loss_axes, training, "loss", 1.0)
    reached = _training_curve(accuracy_axes, training, "accuracy", 100.0)
    matter = [reached[len(reached) // 10 :]]
    for index, mode in enumerate(_validation_modes(validation)):
        values = _validation_curve(loss_axes, validation, "val_loss", mode, 1.0)
        matter.append(_validation_curve(accuracy_axes, validation, "val_accuracy", mode, 100.0))
        if index == 0:
            _fix_loss_axis(loss_axes, np.append(smooth, values))
    if way is not None:
        _chance(accuracy_axes, way)
    finite = np.concatenate(matter)[np.isfinite(np.concatenate(matter))]
    if len(finite):
        margin = max(0.08 * np.ptp(finite), 1.0)
        accuracy_axes.set_ylim(finite.min() - margin, min(finite.max() + margin, 101.0))
    weighted = f"; in training over all steps before epoch {multi_step_epochs + 1}"
    loss_axes.set_title(
        f"after the last inner step{weighted if multi_step_epochs else ''}", fontsize=9
    )
    _finish_axes(loss_axes, "outer step", "cross-entropy of query images")
    _finish_axes(accuracy_axes, "outer step", "accuracy (%)")
    for axes in (loss_axes, accuracy_axes):
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    handles, labels = accuracy_axes.get_legend_handles_labels()
    if handles:  # one for both, outside: inside it would hide a curve
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _fix_loss_axis(axes: Axes, followed: np.ndarray) -> None:
    """Keeps the axis at what has been drawn; on a log scale if the losses span a factor of ten."""
    followed = followed[followed > 0]  # without NaN
    if followed.max(initial=0.0) > 10 * followed.min(initial=np.inf):
        axes.set_yscale("log")  # otherwise the small losses would not be seen
    axes.set_ylim(axes.get_ylim())


def _training_curve(axes: Axes, rows: Rows, name: str, scale: float) -> np.ndarray:
    """Draws each step's value, lightly, and the moving average over 2 % of the steps, which it returns."""
    steps, values = _finite_or_nan(rows, "step"), _finite_or_nan(rows, name, scale)
    if not rows:
        return values
    window = max(1, len(rows) // 50)
    smooth = _moving_average(values, window)
    if len(rows) > _MAX_POINTS:
        centres, low, high = _bands(steps, values)
        label = "training, 90 % of steps"
        axes.fill_between(centres, low, high, color=_BLUE, alpha=0.2, linewidth=0, label=label)
    elif window > 1:
        label = "training, each step"
        axes.plot(steps, values, color=_BLUE, alpha=0.25, linewidth=0.8, label=label)
    label = f"training, mean of {window:,} steps" if window > 1 else "training"
    axes.plot(steps, smooth, color=_BLUE, linewidth=1.6, label=label)
    return smooth


def _finite_or_nan(rows: Rows, name: str, scale: float = 1.0) -> np.ndarray:
    values = scale * np.array([row[name] for row in rows], dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean of up to `window` neighbours that are finite; [n] -> [n]."""
    kernel = np.ones(window)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), kernel, mode="same")
    count = np.convolve(finite.astype(float), kernel, mode="same")
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0.5)


def _bands(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps [b], 5th and 95th percentile [b] of b runs of neighbouring values, b <= 250."""
    bands = []
    for part in np.array_split(np.arange(len(values)), _MAX_POINTS // 4):
        finite = values[part][np.isfinite(values[part])]
        low, high = np.percentile(finite, (5, 95)) if len(finite) else (np.nan, np.nan)
        bands.append((steps[part].mean(), low, high))
    centres, lows, highs = np.array(bands).T
    return centres, lows, highs


def _style(mode: str) -> tuple[str, str]:
    """Colour and marker of a statistics mode."""
    names = [*STATISTICS][: len(_STYLES) - 1]
    return _STYLES[names.index(mode) if mode in names else -1]


def _validation_modes(rows: Rows) -> list[str]:
    """The statistics modes with an accuracy of their own; [""] when there is just one accuracy."""
    prefix = "val_accuracy_"
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith(prefix))
    return [key.removeprefix(prefix) for key in keys] or [""]


def _validation_curve(axes: Axes, rows: Rows, name: str, mode: str, scale: float) -> np.ndarray:
    """Draws one mode's validations, with the interval of an accuracy; returns the values drawn."""
    key = f"{name}_{mode}" if mode else name
    rows = [row for row in rows if key in row]
    values = _finite_or_nan(rows, key, scale)
    if not rows:
        return values
    steps = [row["step"] for row in rows]
    color, marker = _style(mode)
    # A marker at every epoch of a long run would hide the curve.
    every = max(1, len(rows) // 25)
    axes.plot(
        steps,
        values,
        label=f"validation, {mode} statistics" if mode else "validation",
        color=color,
        linewidth=1.2,
        marker=marker,
        markersize=3.5,
        markevery=every,
    )
    if name == "val_accuracy" and all(f"val_ci95_{mode}" in row for row in rows):
        ci95 = _finite_or_nan(rows, f"val_ci95_{mode}", scale)
        axes.fill_between(steps, values - ci95, values + ci95, color=color, alpha=0.2, linewidth=0)
    return values


# --- Accuracy after each inner step ---------------------------------------------------------------


def accuracy_per_inner_step(test: Rows) -> Figure:
    """Draws the test accuracy after 0..S inner steps, a line per row of the ensemble in "test" of `results.json`.

    Without an ensemble every row has a line.
    """
    from matplotlib.ticker import MaxNLocator

    rows = [row for row in test if row["model"] == "ensemble"] or list(test)
    figure = new_figure(5.4, 3.8)
    axes = figure.subplots()
    ends = _separated([100.0 * row["accuracy_per_step"][-1] for row in rows], 4.5)
    for row, label, end in zip(rows, _test_labels(rows), ends, strict=True):
        _inner_step_line(axes, row, label, end)
    ways = {row["way"] for row in rows}
    if len(ways) == 1:
        _chance(axes, ways.pop())
    longest = max((len(row["accuracy_per_step"]) for row in rows), default=1)
    axes.set_xlim(-0.25, max(longest - 1, 1) + 0.6)  # room for the last value
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish_axes(axes, "inner steps taken", "test accuracy (%)")
    if rows:
        axes.legend(fontsize=8)
    return figure


def _inner_step_line(axes: Axes, row: Mapping[str, Any], label: str, end: float) -> None:
    values = 100.0 * np.asarray(row["accuracy_per_step"], dtype=float)
    last = len(values) - 1
    color, marker = _style(row["eval_statistics"])
    axes.plot(values, color=color, marker=marker, markersize=5, linewidth=1.6, label=label)
    axes.errorbar([last], values[-1:], yerr=[100.0 * row["ci95"]], color=color, capsize=3)
    axes.text(last + 0.18, end, f"{values[-1]:.1f}", color=color, fontsize=9, va="center")


def _separated(values: Sequence[float], gap: float) -> np.ndarray:
    """Moves values down, the greatest stays, until none is nearer than `gap` to another; [n]."""
    placed = np.array(values, dtype=float)
    for upper, lower in itertools.pairwise(np.argsort(-placed)):
        placed[lower] = min(placed[lower], placed[upper] - gap)
    return placed


def _test_labels(rows: Rows) -> list[str]:
    """Names each row by its statistics, and by whatever else differs between the rows."""
    others = {
        "model": "{}",
        "train_statistics": "trained with {}",
        "way": "{}-way",
        "shot": "{}-shot",
        "query": "{} query images per class",
        "inner_steps": "{} steps",
        "tasks": "{} tasks",
        "data": "data: {}",
    }
    differing = {
        key: text for key, text in others.items() if len({row.get(key) for row in rows}) > 1
    }
    return [
        ", ".join(
            [f"{row['eval_statistics']} statistics"]
            + [text.format(row.get(key) or "the run's") for key, text in differing.items()]
        )
        for row in rows
    ]


# --- Inner rates ----------------------------------------------------------------------------------


def inner_rates(rates: Mapping[str, np.ndarray]) -> Figure:
    """Draws the learned inner rates as a heat map with their values: tensors down, steps across.

    Rates are {"conv0/kernel": [S], ...}; the elements of an array [S, ...] (a rate per element) are averaged.
    """
    means = {
        name: np.reshape(array, (len(array), -1)).mean(axis=1) for name, array in rates.items()
    }
    table = np.stack(list(means.values()))
    height, width = table.shape
    figure = new_figure(2.6 + 0.62 * width, max(1.2 + 0.3 * height, 2.2))
    axes = figure.subplots()
    finite = np.abs(table[np.isfinite(table)])
    limit = max(float(finite.max(initial=0.0)), 1e-12)
    # Zero in the middle: a negative rate, which climbs the gradient, has the other colour.
    image = axes.imshow(table, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    _annotate_cells(axes, table, limit)
    axes.set_xticks(range(width), [str(step) for step in range(1, width + 1)])
    axes.set_yticks(range(height), list(means), fontsize=9)
    axes.tick_params(length=0)
    axes.set_xlabel("inner step")
    averaged = any(np.ndim(array) > 1 for array in rates.values())
    label = "inner rate (mean over elements)" if averaged else "inner rate"
    figure.colorbar(image, ax=axes, label=label, pad=0.02)
    axes.spines[:].set_visible(False)
    return figure


def _annotate_cells(axes: Axes, table: np.ndarray, limit: float) -> None:
    """Writes each value into its cell, with three significant digits of the largest."""
    digits = int(np.clip(2 - np.floor(np.log10(limit)), 0, 5))
    for (row, column), value in np.ndenumerate(table):
        dark = abs(value) > 0.6 * limit
        color = "white" if dark else "black"
        text = f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)


# --- Shared ---------------------------------------------------------------------------------------


def _chance(axes: Axes, way: int) -> None:
    axes.axhline(100.0 / way, color=_GREY, linestyle=":", linewidth=1.2, label=f"chance, {way}-way")


def _finish_axes(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.has_data():
        axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes)
