"""matplotlib figures without pyplot: no global state, no display, PNGs that appear whole."""

from __future__ import annotations

import io
import pathlib
from typing import Any

from mamlpp_jax.utils.files import write_atomically


def new_figure(width: float, height: float, constrained: bool = True) -> Any:
    """An empty white figure, width and height in inches; `constrained`: axes placed to fit."""
    from matplotlib.figure import Figure

    layout: Any = "constrained" if constrained else None
    return Figure(figsize=(width, height), dpi=200, layout=layout, facecolor="white")


def save_png(figure: Any, path: pathlib.Path) -> None:
    """Draws the figure into a PNG file, atomically.

    Raises:
        WorkdirError: the file cannot be written; an older picture is untouched.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
