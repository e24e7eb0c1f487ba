"""A model that has learned classes: predictions, embeddings and how familiar images are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from mamlpp_jax.inference.adaptation import (
    Adapted,
    Outputs,
    adapt_members,
    probabilities,
    query,
)
from mamlpp_jax.inference.labels import find_classes
from mamlpp_jax.inference.model import FewShotModel
from mamlpp_jax.types import Array
from mamlpp_jax.utils.terminal import tracked

# Queries are padded to one of these numbers, so that other numbers compile nothing new.
_QUERY_SIZES = (8, 64)
_SMALLEST_SPREAD = 0.1  # of a feature, in units of the spread of all
_TINY = 1e-6


class Predictions(NamedTuple):
    """The output for n images."""

    numbers: np.ndarray  # of the classes, int [n]; -1 for "none of these"
    log_probabilities: np.ndarray  # of the classes, float32 [n, K]
    familiarity: np.ndarray  # see `Fitted.familiarity`, float32 [n]


class Fitted(NamedTuple):
    """Classes that a model has learned."""

    model: FewShotModel  # with the settings in use
    classes: np.ndarray  # labels of the classes, [K]
    adapted: Adapted  # weights of the inner loop
    targets: Any  # class numbers of the support set, int32 [N]
    support: Any  # embeddings of the support set, float32 [N, E * D]

    def outputs(self, squares: np.ndarray) -> Outputs:
        """The model's output for preprocessed images, uint8 [n, H, W, C]; NumPy leaves."""
        learner = self.model.learner(len(self.classes))
        fixed = learner, self.model.image_format, self.model.temperature, self.adapted
        # Padding would change the statistics of a batch that is normalised by its own.
        sizes = (len(squares),) if self.adapted.bn_stats is None else _QUERY_SIZES
        starts = range(0, len(squares), sizes[-1])
        parts: list[Outputs] = []
        for start in tracked(starts, len(starts), "predicting"):
            images = squares[start : start + sizes[-1]]
            padding = next(size for size in sizes if size >= len(images)) - len(images)
            padded = np.pad(images, [(0, padding), (0, 0), (0, 0), (0, 0)])
            parts.append(Outputs(*map(np.asarray, query(*fixed, padded))))
        return Outputs(
            *(np.concatenate(leaves)[: len(squares)] for leaves in zip(*parts, strict=True))
        )

    def predict(self, squares: np.ndarray, reject_below: float | None) -> Predictions:
        """The predictions of preprocessed images, of which those with less familiarity are rejected."""
        outputs = self.outputs(squares)
        numbers = outputs.log_probabilities.argmax(axis=1)
        familiarity = self.familiarity(outputs.embeddings)
        if reject_below is not None:
            numbers = np.where(familiarity < reject_below, -1, numbers)
        return Predictions(numbers, outputs.log_probabilities, familiarity)

    def exportable(self) -> Callable[[Array], Array]:
        """A function from uint8 images [n, H, W, C] to probabilities [n, K], without custom derivatives."""
        learner = self.model.learner(len(self.classes), "xla")
        fixed = learner, self.model.image_format, self.model.temperature, self.adapted
        return partial(probabilities, *fixed)

    def familiarity(self, embeddings: np.ndarray) -> np.ndarray:
        """How much embeddings [M, E * D] are like some of the support set, float32 [M] in 0..1.

        1 / (1 + r * d / b + 2 (1 - c)): d is the distance to the nearest support image, b the median distance between
        those of different classes, both with features divided by their deviation over the support set; c is the
        largest cosine; r is the length of the embedding in units of the support set's, 1 at least. On Omniglot each of
        the three finds outliers that the others miss: noise has long embeddings, unknown characters short ones.
        """
        support, (lengths, support_lengths) = (
            self.support,
            map(_lengths, (embeddings, self.support)),
        )
        scale = support.std(axis=0) + max(_SMALLEST_SPREAD * float(support.std()), _TINY)
        between = _distances(support / scale, support / scale)[
            self.targets[:, None] != self.targets
        ]
        nearest = _distances(embeddings / scale, support / scale).min(axis=1)
        length = np.maximum(lengths / support_lengths.mean(), 1.0)
        cosines = (embeddings / lengths[:, None]) @ (support / support_lengths[:, None]).T
        away = length * nearest / max(float(np.median(between)), _TINY)
        return 1 / (1 + away + 2 * np.clip(1 - cosines.max(axis=1), 0, None))


def learn(model: FewShotModel, squares: np.ndarray, labels: np.ndarray) -> Fitted:
    """Runs the inner loop on preprocessed images, uint8 [N, H, W, C], and their labels [N]."""
    classes, targets = find_classes(labels)
    learner, image_format, way = model.learner(len(classes)), model.image_format, len(classes)
    weights = model.meta, model.batch_stats
    adapted = adapt_members(learner, image_format, way, *weights, squares, targets)
    fitted = Fitted(model, classes, adapted, targets, np.empty(0))
    return fitted._replace(support=fitted.outputs(squares).embeddings)


def fitted_shapes(model: FewShotModel, classes: np.ndarray, count: int) -> Fitted:
    """The shapes of `learn`'s result for so many images, as `jax.ShapeDtypeStruct`s; nothing is compiled."""
    fixed = model.learner(len(classes)), model.image_format
    images = jax.ShapeDtypeStruct((count, *model.image_format.shape), np.uint8)
    targets = jax.ShapeDtypeStruct((count,), np.int32)
    weights = model.meta, model.batch_stats
    learned = partial(adapt_members, *fixed, len(classes))
    adapted = jax.eval_shape(learned, *weights, images, targets)
    outputs = jax.eval_shape(partial(query, *fixed, 1.0), adapted, images)
    return Fitted(model, classes, adapted, targets, outputs.embeddings)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [len(a), len(b)], row by row, so that equal rows are exactly 0 apart."""
    return np.stack([np.linalg.norm(row - b, axis=1) for row in a])


def _lengths(rows: np.ndarray) -> np.ndarray:
    return np.maximum(np.linalg.norm(rows, axis=1), _TINY)
