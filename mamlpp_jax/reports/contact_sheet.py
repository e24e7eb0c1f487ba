"""The picture of a data set: classes of every split, and episodes as a model sees them."""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.episodes import TaskShape
from mamlpp_jax.reports.canvas import new_figure, save_png
from mamlpp_jax.training.experiment import Experiment, task_shape
from mamlpp_jax.types import Episode

_CLASSES = 10  # of a split, and of an episode
_IMAGES = 8  # of a class
_EPISODES = 2
_SHOTS, _QUERIES = 5, 5  # of a class of an episode

# Sizes in tiles; a tile is an image with its margin.
_INCHES = 0.55
_NAME = 1.9
_GAP = 0.3
_BLOCK_GAP = 0.6
_HEAD = 0.9
_IMAGE = 0.94


def draw(experiment: Experiment, dataset: Dataset, path: pathlib.Path) -> None:
    """Draws a block of classes and two episodes for each split of a experiment.

    Classes are spread evenly over the split, in name order, and images over the class. Episodes are the first
    of the split's stream, as the model gets them: drawn by the experiment, with the normalisation taken back for
    display.

    Args:
        experiment: gives the splits and draws the episodes.
        dataset: the data of `experiment`.
        path: PNG to write.

    Raises:
        WorkdirError: the file cannot be written.
    """
    shape = task_shape(experiment.config)
    rows = max(
        min(_CLASSES, max(map(len, experiment.class_names.values()))), min(_CLASSES, shape.way)
    )
    episode_width = _NAME + min(shape.shot, _SHOTS) + _GAP + min(shape.query, _QUERIES)
    width = _NAME + _IMAGES + _EPISODES * (_BLOCK_GAP + episode_width)
    sheet = _Sheet(width, len(experiment.class_names) * (rows + _HEAD))
    for row, split in enumerate(experiment.class_names):
        top = row * (rows + _HEAD) + _HEAD
        _draw_classes(sheet, top, experiment, dataset, split)
        episodes = experiment.tasks[split].episodes(_EPISODES)
        for task in range(_EPISODES):
            left = _NAME + _IMAGES + _BLOCK_GAP + task * (episode_width + _BLOCK_GAP)
            episode = Episode(*(leaf[task] for leaf in episodes))
            sheet.title(left, top, f"{split} episode {task}, {shape.way}-way {shape.shot}-shot")
            names = experiment.tasks[split].task_class_names(task)
            _draw_episode(sheet, left, top, episode, names, shape)
    sheet.save(path)


def _draw_classes(
    sheet: _Sheet, top: float, experiment: Experiment, dataset: Dataset, split: str
) -> None:
    names = experiment.class_names[split]
    starts = np.concatenate([[0], np.cumsum(dataset.class_sizes)])
    position = {name: index for index, name in enumerate(dataset.class_names)}
    members = sorted(names, key=position.__getitem__)
    chosen = [members[i] for i in _spread(len(members), _CLASSES)]
    total = sum(int(dataset.class_sizes[position[name]]) for name in names)
    sheet.title(
        0.1, top, f"{split}: {len(names)} classes, {total} images; {len(chosen)} of the classes"
    )
    for row, name in enumerate(chosen):
        first, end = starts[position[name]], starts[position[name] + 1]
        sheet.name(0.0, top + row, name)
        for column, index in enumerate(_spread(end - first, _IMAGES)):
            sheet.image(_NAME + column, top + row, dataset.images[first + index] / 255.0)


def _spread(count: int, most: int) -> list[int]:
    """At most so many of 0..count-1, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


def _draw_episode(
    sheet: _Sheet, left: float, top: float, episode: Episode, names: Sequence[str], shape: TaskShape
) -> None:
    def shown(images: Any, each: int, most: int) -> np.ndarray:
        """[K, min(each, most), H, W, C] in 0..1."""
        pixels = np.asarray(images) * np.asarray(shape.std) + np.asarray(shape.mean)
        return np.clip(pixels, 0.0, 1.0).reshape(shape.way, each, *pixels.shape[1:])[:, :most]

    support = shown(episode.support_images, shape.shot, _SHOTS)
    query = shown(episode.query_images, shape.query, _QUERIES)
    query_left = left + _NAME + support.shape[1] + _GAP
    sheet.small(left + _NAME, top, "support")
    sheet.small(query_left, top, "query")
    for row in range(min(shape.way, _CLASSES)):
        sheet.name(left, top + row, names[row])
        for column, image in enumerate(support[row]):
            sheet.image(left + _NAME + column, top + row, image)
        for column, image in enumerate(query[row]):
            sheet.image(query_left + column, top + row, image)


class _Sheet:
    """One axes over the whole figure, in tiles, y downwards."""

    def __init__(self, width: float, height: float) -> None:
        self._figure = new_figure(_INCHES * width, _INCHES * height, constrained=False)
        self._axes = self._figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.axis("off")
        self._axes.set_autoscale_on(False)

    def image(self, left: float, top: float, image: np.ndarray) -> None:
        """An image [H, W, 1 or 3] in 0..1, as it is: grey 0 is black."""
        extent = (left, left + _IMAGE, top + _IMAGE, top)
        grey = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0} if image.shape[-1] == 1 else {}
        options = dict(extent=extent, origin="upper", aspect="auto", interpolation="nearest")
        self._axes.imshow(image[..., 0] if grey else image, **options, **grey)

    def title(self, left: float, top: float, text: str) -> None:
        self._text(left, top - 0.45, text, size=8, weight="bold", va="bottom")

    def small(self, left: float, top: float, text: str) -> None:
        self._text(left, top - 0.06, text, size=6, va="bottom", color="#444444")

    def name(self, left: float, top: float, name: str) -> None:
        """A class name beside its row, in at most three lines."""
        lines = [
            line
            for piece in name.replace("/", "/\n").split("\n")
            for line in textwrap.wrap(piece, 16)
        ]
        text = "\n".join(lines if len(lines) < 4 else [*lines[:2], "\N{HORIZONTAL ELLIPSIS}"])
        style = {"size": 5.5, "ha": "right", "va": "center", "linespacing": 1.1}
        self._text(left + _NAME - 0.1, top + _IMAGE / 2, text, **style)

    def save(self, path: pathlib.Path) -> None:
        save_png(self._figure, path)

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        # A dollar sign in a class name is no formula.
        self._axes.text(x, y, text, parse_math=False, **style)
