"""The picture of one episode: what was learned from, what was asked, what was answered."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mamlpp_jax.reports.canvas import new_figure, save_png

_RIGHT, _WRONG = "#1a9641", "#d7191c"
_MOST_CLASSES = 40
_MOST_QUERIES = 40
_MOST_SHOTS = 5
_ROWS_OF_A_BLOCK = 10  # more classes are set in further blocks beside the first
_MOST_QUERIES_OF_A_CLASS = 8
_LONGEST_CAPTION = 11  # characters of a class name below an image

# Sizes in tiles; a tile is an image and the margin around it.
_INCHES = 0.72
_NAME_WIDTH = 1.3
_GAP = 0.35  # between support and query images
_BLOCK_GAP = 0.45
_HEAD = 0.95
_CAPTION = 0.42
_IMAGE = 0.92


def episode(
    support: np.ndarray,
    support_labels: np.ndarray,
    query: np.ndarray,
    query_labels: np.ndarray,
    probabilities: np.ndarray,
    path: pathlib.Path,
    class_names: Sequence[str] | None = None,
) -> None:
    """Draws an episode, a row per class: support images, then query images with their answers.

    A right answer has a solid green frame and a tick, a wrong one a dashed red frame and a cross;
    below stand the predicted class and its probability. At most 40 query images (of each class the
    first ones), 5 support images of a class and 40 classes are drawn; the title counts all.

    Args:
        support: float [N, H, W, C]; any range, C = 1 (grey) or 3 (colour).
        support_labels: int [N], 0..K-1.
        query: float [M, H, W, C].
        query_labels: int [M], 0..K-1.
        probabilities: float [M, K], the predicted distribution of each query image.
        path: PNG to write.
        class_names: [K]; default the labels. Long ones stand beside the rows only.

    Raises:
        ValueError: the arrays' lengths do not fit each other.
        WorkdirError: the file cannot be written.
    """
    support_labels, query_labels = np.asarray(support_labels), np.asarray(query_labels)
    probabilities = np.asarray(probabilities, dtype=float)
    _check(support, support_labels, query, query_labels, probabilities)
    way = probabilities.shape[1]
    if class_names is not None and len(class_names) != way:
        raise ValueError(f"{len(class_names)} class names for {way} classes")
    beside, below = _names(class_names, way)
    images, reverse = _displayable(np.concatenate([support, query]))
    layout = _Layout.of(support_labels, query_labels, way)
    canvas = _Canvas(layout, "gray_r" if reverse else "gray")
    canvas.head(_title(support_labels, query_labels, probabilities, layout))
    predicted = probabilities.argmax(axis=1)
    for label in range(layout.classes):
        canvas.name(label, beside[label])
        for column, index in enumerate(_first(support_labels, label, layout.shots)):
            canvas.support(label, column, images[index])
        for column, index in enumerate(_first(query_labels, label, layout.queries)):
            answer = int(predicted[index])
            canvas.query(
                label,
                column,
                images[len(support) + index],
                right=answer == label,
                name=below[answer],
                probability=float(probabilities[index, answer]),
            )
    save_png(canvas.figure, path)


def _check(
    support: np.ndarray,
    support_labels: np.ndarray,
    query: np.ndarray,
    query_labels: np.ndarray,
    probabilities: np.ndarray,
) -> None:
    if len(support) != len(support_labels) or not len(support):
        raise ValueError(f"{len(support)} support images have {len(support_labels)} labels")
    if not len(query) == len(query_labels) == len(probabilities) or not len(query):
        raise ValueError(
            f"{len(query)} query images have {len(query_labels)} labels "
            f"and {len(probabilities)} predictions"
        )


def _first(labels: np.ndarray, label: int, most: int) -> np.ndarray:
    return np.flatnonzero(labels == label)[:most]


def _title(
    support_labels: np.ndarray,
    query_labels: np.ndarray,
    probabilities: np.ndarray,
    layout: _Layout,
) -> list[str]:
    """Lines short enough for a narrow picture."""
    way = probabilities.shape[1]
    shot = int(np.bincount(support_labels).max())
    right = int((probabilities.argmax(axis=1) == query_labels).sum())
    total = len(query_labels)
    shown = sum(len(_first(query_labels, label, layout.queries)) for label in range(layout.classes))
    lines = [
        f"{way}-way {shot}-shot episode",
        f"{right} of {total} query images right ({100 * right / total:.1f} %)",
    ]
    parts = []
    if layout.classes < way:
        parts.append(f"{layout.classes} of {way} classes")
    if layout.shots < shot:
        parts.append(f"{layout.shots} of {shot} support images per class")
    if shown < total:
        parts.append(f"{shown} of {total} query images")
    if parts:
        lines.append("shown: " + ", ".join(parts))
    return lines


def _displayable(images: np.ndarray) -> tuple[np.ndarray, bool]:
    """Images [n, H, W] or [n, H, W, 3] in [0, 1], and whether grey is to be reversed.

    Values outside [0, 1] (normalised images) are stretched by channel to the episode's own range.
    Strokes on an empty ground, most pixels at the smallest value, are shown as ink on paper.
    """
    images = np.nan_to_num(np.asarray(images, dtype=float), posinf=0.0, neginf=0.0)
    if images.min() < 0.0 or images.max() > 1.0:
        low, high = np.percentile(images, (0.2, 99.8), axis=(0, 1, 2))
        images = np.clip((images - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
    if images.shape[-1] == 3:
        return images, False
    grey = images.mean(axis=-1)
    empty = grey <= grey.min() + 0.02 * np.ptp(grey)
    return grey, bool(empty.mean() > 0.5)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How many of what are drawn, and where; lengths in tiles, y downwards."""

    classes: int
    shots: int
    queries: int  # of a class
    rows: int
    blocks: int

    @classmethod
    def of(cls, support_labels: np.ndarray, query_labels: np.ndarray, way: int) -> _Layout:
        classes = min(way, _MOST_CLASSES)
        shots = min(int(np.bincount(support_labels).max()), _MOST_SHOTS)
        fair = min(max(_MOST_QUERIES // classes, 1), _MOST_QUERIES_OF_A_CLASS)
        queries = min(int(np.bincount(query_labels).max()), fair)
        blocks = -(-classes // _ROWS_OF_A_BLOCK)
        return cls(classes, shots, queries, rows=-(-classes // blocks), blocks=blocks)

    @property
    def block_width(self) -> float:
        return _NAME_WIDTH + self.shots + _GAP + self.queries + _BLOCK_GAP

    @property
    def width(self) -> float:
        return self.blocks * self.block_width - _BLOCK_GAP + 0.1

    @property
    def height(self) -> float:
        return self.rows * (1 + _CAPTION)

    def corner(self, label: int) -> tuple[float, float]:
        """Top left of the class's row."""
        block, row = divmod(label, self.rows)
        return block * self.block_width, row * (1 + _CAPTION)


class _Canvas:
    """One axes over the whole figure, in tiles: many small axes would take seconds to draw."""

    def __init__(self, layout: _Layout, cmap: str) -> None:
        self._layout = layout
        self._cmap = cmap
        # A narrow episode still needs room for its title.
        self._width = max(layout.width, 3.9)
        self._top = _HEAD + 0.25
        height = layout.height + self._top
        self.figure = new_figure(_INCHES * self._width, _INCHES * height, constrained=False)
        self._axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self._axes.set(xlim=(0, self._width), ylim=(layout.height, -self._top))
        self._axes.axis("off")
        self._axes.set_autoscale_on(False)  # an image would move the limits to itself

    def head(self, title: Sequence[str]) -> None:
        """Title, and over each block what its columns are."""
        first, *rest = title
        self._text(0.1, -self._top + 0.12, first, size=9, weight="bold", va="top")
        self._text(0.1, -self._top + 0.37, "\n".join(rest), size=7, va="top", linespacing=1.3)
        for block in range(self._layout.blocks):
            left = block * self._layout.block_width + _NAME_WIDTH
            middle = left + self._layout.shots + _GAP / 2
            query = left + self._layout.shots + _GAP
            self._text(left, -0.08, "support", size=7, va="bottom", color="#444444")
            self._text(query, -0.08, "query", size=7, va="bottom", color="#444444")
            last = min(self._layout.rows, self._layout.classes - block * self._layout.rows)
            bottom = last * (1 + _CAPTION) - 0.12
            self._axes.plot([middle, middle], [-0.3, bottom], color="#bbbbbb", linewidth=0.8)

    def name(self, label: int, name: str) -> None:
        left, top = self._layout.corner(label)
        x = left + _NAME_WIDTH - 0.12
        self._text(x, top + 0.5, name, size=6, ha="right", va="center")

    def support(self, label: int, column: int, image: np.ndarray) -> None:
        left, top = self._layout.corner(label)
        self._image(left + _NAME_WIDTH + column, top, image, "#999999", 0.5, "-")

    def query(
        self,
        label: int,
        column: int,
        image: np.ndarray,
        *,
        right: bool,
        name: str,
        probability: float,
    ) -> None:
        left, top = self._layout.corner(label)
        left += _NAME_WIDTH + self._layout.shots + _GAP + column
        color = _RIGHT if right else _WRONG
        self._image(left, top, image, color, 1.8, "-" if right else (0, (2.5, 1)))
        mark = "\N{CHECK MARK}" if right else "\N{BALLOT X}"
        text = f"{mark} {name}\n{100 * probability:.0f} %"
        style = {"size": 5.5, "ha": "center", "va": "top", "linespacing": 1.1}
        self._text(left + 0.5, top + 0.99, text, color=color, **style)

    def _image(
        self, left: float, top: float, image: np.ndarray, color: str, width: float, style: Any
    ) -> None:
        from matplotlib.patches import Rectangle

        margin = (1 - _IMAGE) / 2
        left, top = left + margin, top + margin
        extent = (left, left + _IMAGE, top + _IMAGE, top)
        options = dict(cmap=self._cmap, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
        # Pixels are given top row first; the axes grow downwards, so the origin is "upper".
        self._axes.imshow(image, extent=extent, origin="upper", **options)
        frame = Rectangle((left, top), _IMAGE, _IMAGE, fill=False, edgecolor=color)
        frame.set(linewidth=width, linestyle=style)
        self._axes.add_patch(frame)

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        # A dollar sign in a class name is no formula.
        self._axes.text(x, y, text, parse_math=False, **style)


def _names(class_names: Sequence[str] | None, way: int) -> tuple[Sequence[str], Sequence[str]]:
    """What stands beside each class's row and what below its predictions, [K] each.

    Names too long for the space below an image are replaced there by a number: cut short, those
    of one family ("Sanskrit/character01" ...) would all look the same.
    """
    numbers = [f"class {label}" for label in range(way)]
    if class_names is None:
        return numbers, numbers
    if max(map(len, class_names)) <= _LONGEST_CAPTION:
        return class_names, class_names
    beside = [
        f"{number}\n{_wrapped(name)}" for number, name in zip(numbers, class_names, strict=True)
    ]
    return beside, numbers


def _wrapped(name: str) -> str:
    """The name in at most three lines that fit beside a row, broken after slashes if it has any."""
    import textwrap

    pieces = name.replace("/", "/\n").split("\n")
    lines = [line for piece in pieces for line in textwrap.wrap(piece, 14)]
    return "\n".join([*lines[:2], "\N{HORIZONTAL ELLIPSIS}"] if len(lines) > 3 else lines)
