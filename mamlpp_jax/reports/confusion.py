"""The figure of a confusion table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mamlpp_jax.reports.canvas import displayable, families, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NUMBERED = 30  # classes whose cells have room for numbers


def draw_confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Draws how many images of each class (rows) are taken for each (columns); classes without any are left out.

    Args:
        counts: int [K, K].
        names: of the classes, [K].
    """
    used = np.flatnonzero(counts.any(axis=0) | counts.any(axis=1))
    counts = counts[used][:, used]
    labels = [displayable(names[number]) for number in used.tolist()]
    side = 2.5 + 0.28 * len(labels)
    figure = new_figure(side, side)
    axes = figure.add_subplot(xlabel="predicted class", ylabel="class")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    ticks = range(len(labels))
    style: dict[str, Any] = {"size": 7, "family": families("".join(labels)), "parse_math": False}
    axes.set_xticks(ticks, labels, rotation=90, **style)
    axes.set_yticks(ticks, labels, **style)
    if len(labels) <= _MOST_NUMBERED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, str(counts[row, column]), size=7, ha="center", va="center", color=color
            )
    return figure
