"""The figure of one episode: support images, query images and their predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from mamlpp_jax.reports.canvas import Canvas, display_width, displayable
from mamlpp_jax.types import Array, Episode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Frames of images: of right and wrong predictions, and of those that are not judged.
_CORRECT: Mapping[str, Any] = {"color": "#1a9641", "linewidth": 1.8}
_WRONG: Mapping[str, Any] = {"color": "#d7191c", "linewidth": 1.8, "linestyle": "--"}
_PLAIN: Mapping[str, Any] = {"color": "#999999", "linewidth": 0.5}
_MAX_CLASSES = 40
_MAX_QUERIES = 40
_MAX_QUERIES_OF_A_CLASS = 8
_MAX_SHOTS = 5
_ROWS_OF_A_COLUMN = 10  # more classes are set in further columns beside the first
_LONGEST_CAPTION = 11  # characters of a class name below an image

# Lengths in tiles.
_INCHES = 0.72
_NAME = 1.35
_GAP = 0.35  # between support and query images
_COLUMN_GAP = 0.45
_HEAD = 1.2
_ROW, _ROW_UNJUDGED = 1.42, 1.24  # an image with its caption of two lines or one
_MIN_WIDTH = 3.9  # room for the title


def draw(
    episode: Episode,
    probabilities: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    judged: bool = True,
) -> Figure:
    """Draws an episode of NumPy arrays, a row per class: support images, then query images with their predictions.

    A correct prediction has a solid green frame and a tick, a wrong one a dashed red frame and a
    cross; below stand the predicted class and its probability. At most 40 query images (of each
    class the first ones), 5 support images of a class and 40 classes are drawn; the title counts all.

    Args:
        episode: images in any range, C = 1 (grey) or 3 (colour).
        probabilities: float [M, K], the predicted distribution of each query image.
        class_names: [K]; default the labels. Long ones stand beside the rows only.
        judged: False where `query.targets` are the predictions, since the truth is not known: then each query image
            stands in the row of its prediction, with the probability below it.
    """
    episode = jax.tree.map(np.asarray, episode)
    beside, below = _names(class_names, probabilities.shape[1])
    support, query, reverse = _displayable(episode.support.inputs, episode.query.inputs)
    layout = _Layout.of(episode, way=probabilities.shape[1], judged=judged)
    cmap = "gray_r" if reverse else "gray"
    canvas = Canvas(max(layout.width, _MIN_WIDTH), layout.height, _INCHES, cmap)
    predictions = probabilities.argmax(axis=1)
    _draw_head(canvas, layout, _title(episode, predictions, layout, judged))
    for label in range(layout.classes):
        left, top = layout.corner(label)
        canvas.row_name(left + _NAME, top, beside[label])
        for column, index in enumerate(_first(episode.support.targets, label, layout.shots)):
            canvas.image(left + _NAME + column, top, support[index], **_PLAIN)
        left += _NAME + layout.shots + _GAP
        for column, index in enumerate(_first(episode.query.targets, label, layout.queries)):
            predicted = predictions[index]
            percent = f"{100 * probabilities[index, predicted]:.0f} %"
            frame, caption, color = _PLAIN, percent, "#444444"
            if judged:
                correct = predicted == label
                frame = _CORRECT if correct else _WRONG
                mark = "\N{CHECK MARK}" if correct else "\N{BALLOT X}"
                caption, color = f"{mark} {below[predicted]}\n{percent}", frame["color"]
            canvas.image(left + column, top, query[index], **frame)
            style = {"ha": "center", "va": "top", "linespacing": 1.1, "color": color}
            canvas.text(left + column + 0.5, top + 0.99, caption, size=5.5, **style)
    return canvas.figure


def _names(class_names: Sequence[str] | None, way: int) -> tuple[Sequence[str], Sequence[str]]:
    """The names beside the rows and those below the predictions, [K] each.

    Names too long for the space below an image are replaced there by a number: cut short, those
    of one family ("Sanskrit/character01" ...) would all look the same.
    """
    numbers = [f"class {label}" for label in range(way)]
    if class_names is None:
        return numbers, numbers
    class_names = list(map(displayable, class_names))
    if max(map(display_width, class_names)) <= _LONGEST_CAPTION:
        return class_names, class_names
    return [f"{n}: {name}" for n, name in zip(numbers, class_names, strict=True)], numbers


def _first(labels: Array, label: int, most: int) -> np.ndarray:
    return np.flatnonzero(labels == label)[:most]


def _displayable(support: Array, query: Array) -> tuple[np.ndarray, np.ndarray, bool]:
    """Support and query images in [0, 1], and whether grey is to be reversed.

    Values outside [0, 1] (normalised images) are stretched by channel to the episode's own range.
    Strokes on an empty ground, most pixels at the smallest value, are shown as ink on paper.
    """
    images = np.concatenate([support, query]).astype(float)
    images = np.nan_to_num(images, posinf=0.0, neginf=0.0)
    if images.min() < 0.0 or images.max() > 1.0:
        low, high = np.percentile(images, (0.2, 99.8), axis=(0, 1, 2))
        images = np.clip((images - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
    empty = images <= images.min() + 0.02 * np.ptp(images)
    reverse = images.shape[-1] == 1 and bool(empty.mean() > 0.5)
    return images[: len(support)], images[len(support) :], reverse


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Total and drawn numbers, and positions; lengths in tiles, y downwards."""

    way: int
    shot: int
    classes: int
    shots: int
    queries: int  # of a class
    row: float  # height

    @classmethod
    def of(cls, episode: Episode, way: int, judged: bool) -> _Layout:
        sets = (episode.support, episode.query)
        shot, query = (int(np.bincount(part.targets).max()) for part in sets)
        classes = min(way, _MAX_CLASSES)
        fair = min(max(_MAX_QUERIES // classes, 1), _MAX_QUERIES_OF_A_CLASS)
        row = _ROW if judged else _ROW_UNJUDGED
        return cls(way, shot, classes, min(shot, _MAX_SHOTS), min(query, fair), row)

    @property
    def columns(self) -> int:
        return -(-self.classes // _ROWS_OF_A_COLUMN)

    @property
    def rows(self) -> int:
        """Rows of each column but the last, which may have fewer."""
        return -(-self.classes // self.columns)

    @property
    def column_width(self) -> float:
        return _NAME + self.shots + _GAP + self.queries + _COLUMN_GAP

    @property
    def width(self) -> float:
        return self.columns * self.column_width - _COLUMN_GAP + 0.1

    @property
    def height(self) -> float:
        return _HEAD + self.rows * self.row

    def corner(self, label: int) -> tuple[float, float]:
        """Top left of the class's row."""
        column, row = divmod(label, self.rows)
        return column * self.column_width, _HEAD + row * self.row


def _title(episode: Episode, predictions: np.ndarray, layout: _Layout, judged: bool) -> list[str]:
    """Lines short enough for a narrow figure."""
    labels = episode.query.targets
    total, correct = len(labels), int((predictions == labels).sum())
    queries = sum(len(_first(labels, n, layout.queries)) for n in range(layout.classes))
    shown = {
        f"{layout.classes} of {layout.way} classes": layout.classes < layout.way,
        f"{layout.shots} of {layout.shot} support images per class": layout.shots < layout.shot,
        f"{queries} of {total} query images": queries < total,
    }
    cut = ", ".join(text for text, is_cut in shown.items() if is_cut)
    fewest = int(np.bincount(episode.support.targets).min())
    few = str(fewest) if fewest == layout.shot else f"{fewest} to {layout.shot}"
    head = [
        f"{layout.way}-way {few.replace(' to ', '- to ')}-shot episode",
        f"{correct} of {total} predictions correct ({100 * correct / total:.1f} %)",
    ]
    if not judged:
        head = [
            f"{layout.way} classes, {few} support image{'' if few == '1' else 's'} each",
            f"{total} query images, each in the row of its prediction",
        ]
    return [*head, *([f"shown: {cut}"] if cut else [])]


def _draw_head(canvas: Canvas, layout: _Layout, title: Sequence[str]) -> None:
    """Title, and the headings over each column."""
    first, *rest = title
    canvas.text(0.1, 0.12, first, size=9, weight="bold", va="top")
    canvas.text(0.1, 0.37, "\n".join(rest), size=7, va="top", linespacing=1.3)
    for column in range(layout.columns):
        left = column * layout.column_width + _NAME
        query = left + layout.shots + _GAP
        canvas.label(left, _HEAD, "support")
        canvas.label(query, _HEAD, "query")
        rows = min(layout.rows, layout.classes - column * layout.rows)
        canvas.divider(query - _GAP / 2, _HEAD - 0.3, _HEAD + rows * layout.row - 0.12)
