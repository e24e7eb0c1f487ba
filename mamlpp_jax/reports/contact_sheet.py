"""The contact sheet of a data set: classes of every split, and episodes as a model gets them."""

from __future__ import annotations

import dataclasses
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
_GROUP_GAP = 0.6
_HEAD = 0.95


@dataclasses.dataclass(frozen=True, eq=False)
class SplitSample:
    """The part of one split in a contact sheet."""

    name: str  # "train", "val" or "test"
    classes: Mapping[str, np.ndarray]  # all images of each class by its name, uint8 [n, H, W, C]
    episodes: Episode  # the first E, with normalised images ordered by class; leaves [E, ...]
    episode_classes: Sequence[Sequence[str]]  # names of their classes, [E][K]

    def by_class(self, images: Array) -> np.ndarray:
        """Support or query images [E, K * n, H, W, C] as [E, K, n, H, W, C]."""
        count, way = len(self.episode_classes), len(self.episode_classes[0])
        return np.reshape(images, (count, way, -1, *images.shape[2:]))


def draw(
    splits: Sequence[SplitSample], mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> Figure:
    """Draws a band per split: some classes, and beside them the episodes; E, shot and query are the same for all.

    At most 10 classes, spread evenly over the split in the order given, and 8 images of each, spread evenly
    over the class, are drawn; of an episode at most 10 classes with 5 support and 5 query images each. Its images
    are shown without the normalisation by `mean` and `std` of each channel.
    """
    first = splits[0]
    largest = max(len(images) for split in splits for images in split.classes.values())
    class_width = _NAME + min(largest, _IMAGES) + _GAP
    support, query, _ = first.episodes
    shots, queries = (first.by_class(part.inputs).shape[2] for part in (support, query))
    episode_width = _GROUP_GAP + _NAME + min(shots, _SHOTS) + _GAP + min(queries, _QUERIES)
    rows = (max(map(len, (split.classes, *split.episode_classes))) for split in splits)
    heights = [_HEAD + min(most, _CLASSES) for most in rows]
    episodes = range(len(first.episode_classes))
    width = class_width + len(episodes) * episode_width + _GAP
    canvas = Canvas(width, sum(heights) + _GAP, _INCHES)
    top = _HEAD
    for split, height in zip(splits, heights, strict=True):
        _draw_classes(canvas, 0.0, top, split)
        for index in episodes:
            left = class_width + index * episode_width + _GROUP_GAP
            _draw_episode(canvas, left, top, split, index, mean, std)
        top += height
    return canvas.figure


def _draw_classes(canvas: Canvas, left: float, top: float, split: SplitSample) -> None:
    names, total = list(split.classes), sum(map(len, split.classes.values()))
    _draw_title(canvas, left + 0.1, top, f"{split.name}: {len(names):,} classes, {total:,} images")
    left += _NAME
    if len(names) > _CLASSES:
        canvas.label(left, top, f"{_CLASSES} of {len(names):,} classes")
    for row, index in enumerate(_spread(len(names), _CLASSES)):
        images = split.classes[names[index]]
        canvas.row_name(left, top + row, names[index])
        for column, image in enumerate(_spread(len(images), _IMAGES)):
            canvas.image(left + column, top + row, images[image] / 255.0)


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
    support = split.by_class(split.episodes.support.inputs)[index]
    query = split.by_class(split.episodes.query.inputs)[index]
    title = f"{split.name} episode {index}, {len(names)}-way {support.shape[1]}-shot"
    _draw_title(canvas, left, top, title)
    if len(names) > _CLASSES:
        canvas.label(left, top, f"{_CLASSES} of {len(names)} classes")
    left += _NAME
    for row, name in enumerate(names[:_CLASSES]):
        canvas.row_name(left, top + row, name)
    for name, images, most in (("support", support, _SHOTS), ("query", query, _QUERIES)):
        each = images.shape[1]
        canvas.label(left, top, name if each <= most else f"{name}, {most} of {each}")
        pixels = np.clip(images[:_CLASSES, :most] * np.asarray(std) + np.asarray(mean), 0.0, 1.0)
        for row, column in np.ndindex(pixels.shape[:2]):
            canvas.image(left + column, top + row, pixels[row, column])
        left += pixels.shape[1] + _GAP


def _draw_title(canvas: Canvas, left: float, top: float, text: str) -> None:
    canvas.text(left, top - 0.45, text, size=7.5, weight="bold", va="bottom")
