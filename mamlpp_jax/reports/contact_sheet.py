"""The contact sheet of a data set: classes of every split, and episodes as a model gets them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mamlpp_jax.reports.canvas import Canvas
from mamlpp_jax.types import Array, Episode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CLASSES = 10  # of a split, and of an episode
_IMAGES = 8  # of a class
_SHOTS = _QUERIES = 5  # of a class of an episode

# Lengths in tiles.
_INCHES = 0.55
_NAME = 1.95
_GAP = 0.3  # between support and query images
_BLOCK_GAP = 0.6
_HEAD = 0.95


@dataclasses.dataclass(frozen=True, eq=False)
class SplitSample:
    """What a contact sheet shows of one split.

    Attributes:
        name: "train", "val" or "test".
        classes: all images of each class by its name, uint8 [n, H, W, C].
        episodes: the first E, with normalised images ordered by class; leaves [E, ...].
        episode_classes: names of their classes, [E][K].
    """

    name: str
    classes: Mapping[str, np.ndarray]
    episodes: Episode
    episode_classes: Sequence[Sequence[str]]

    def by_class(self, images: Array) -> np.ndarray:
        """Support or query images [E, K * n, H, W, C] as [E, K, n, H, W, C]."""
        count, way = len(self.episode_classes), len(self.episode_classes[0])
        return np.reshape(images, (count, way, -1, *images.shape[2:]))


def draw(
    splits: Sequence[SplitSample], mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> Figure:
    """Draws a block of classes and the episodes of each split.

    At most 10 classes, spread evenly over the split in the order given, and 8 images of each, spread evenly
    over the class, are drawn; of an episode at most 10 classes with 5 support and 5 query images each.

    Args:
        splits: one or more, with equal E, K, shot and query.
        mean: per-channel mean that was subtracted from the episodes' images, added for display.
        std: per-channel deviation that they were divided by.
    """
    # The episodes of a split below or beside each other, whichever leaves less of the sheet empty.
    choices = range(1, len(splits[0].episode_classes) + 1)
    columns = min(choices, key=lambda columns: math.prod(_size(splits, columns)))
    canvas = Canvas(*_size(splits, columns), _INCHES)
    top = _HEAD
    for split in splits:
        _draw_classes(canvas, top, split)
        for index, names in enumerate(split.episode_classes):
            row, column = divmod(index, columns)
            left = _classes_width(splits) + column * _episode_width(split) + _BLOCK_GAP
            below = top + row * (_HEAD + _rows(names))
            _draw_episode(canvas, left, below, split, index, mean, std)
        top += _height(split, columns)
    return canvas.figure


def _rows(classes: Mapping[str, np.ndarray] | Sequence[str]) -> int:
    return min(len(classes), _CLASSES)


def _classes_width(splits: Sequence[SplitSample]) -> float:
    largest = max(len(images) for split in splits for images in split.classes.values())
    return _NAME + min(largest, _IMAGES)


def _episode_width(split: SplitSample) -> float:
    shots, queries = (split.by_class(images).shape[2] for images in split.episodes[::2])
    return _BLOCK_GAP + _NAME + min(shots, _SHOTS) + _GAP + min(queries, _QUERIES)


def _height(split: SplitSample, columns: int) -> float:
    below_each_other = math.ceil(len(split.episode_classes) / columns)
    episodes = below_each_other * (_HEAD + _rows(split.episode_classes[0]))
    return max(_HEAD + _rows(split.classes), episodes)


def _size(splits: Sequence[SplitSample], columns: int) -> tuple[float, float]:
    """Width and height with so many episodes beside each other."""
    width = _classes_width(splits) + columns * _episode_width(splits[0])
    return width + _GAP, sum(_height(split, columns) for split in splits) + _GAP


def _draw_classes(canvas: Canvas, top: float, split: SplitSample) -> None:
    names, total = list(split.classes), sum(map(len, split.classes.values()))
    _draw_title(canvas, 0.1, top, f"{split.name}: {len(names):,} classes, {total:,} images")
    if len(names) > _CLASSES:
        canvas.label(_NAME, top, f"{_CLASSES} of {len(names):,} classes")
    for row, index in enumerate(_spread(len(names), _CLASSES)):
        images = split.classes[names[index]]
        canvas.row_name(_NAME, top + row, names[index])
        for column, image in enumerate(_spread(len(images), _IMAGES)):
            canvas.image(_NAME + column, top + row, images[image] / 255.0)


def _spread(count: int, most: int) -> list[int]:
    """At most so many of 0..count-1, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


def _draw_episode(
    canvas: Canvas,
    left: float,
    top: float,
    split: SplitSample,
    index: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    names = split.episode_classes[index]
    support = split.by_class(split.episodes.support_images)[index]
    query = split.by_class(split.episodes.query_images)[index]
    title = f"{split.name} episode {index}, {len(names)}-way {support.shape[1]}-shot"
    _draw_title(canvas, left, top, title)
    if len(names) > _CLASSES:
        canvas.label(left, top, f"{_CLASSES} of {len(names)} classes")
    left += _NAME
    for row, name in enumerate(names[:_CLASSES]):
        canvas.row_name(left, top + row, name)
    for kind, images, most in (("support", support, _SHOTS), ("query", query, _QUERIES)):
        each = images.shape[1]
        canvas.label(left, top, kind if each <= most else f"{kind}, {most} of {each}")
        pixels = np.clip(images[:_CLASSES, :most] * np.asarray(std) + np.asarray(mean), 0.0, 1.0)
        for row, column in np.ndindex(pixels.shape[:2]):
            canvas.image(left + column, top + row, pixels[row, column])
        left += pixels.shape[1] + _GAP


def _draw_title(canvas: Canvas, left: float, top: float, text: str) -> None:
    canvas.text(left, top - 0.45, text, size=7.5, weight="bold", va="bottom")
