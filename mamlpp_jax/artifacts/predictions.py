"""The predictions of a run's tests, one by one, in `predictions.npz`; accuracies of any sort are made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mamlpp_jax.artifacts.results import Evaluation
from mamlpp_jax.utils.arithmetic import student_t95

_OF_TASKS = ("names", "classes", "labels")  # the same for every model and statistics


class QueryPredictions(NamedTuple):
    """The predictions of one test for T tasks of K classes and M query images.

    Attributes:
        names: of the classes that tasks were sampled from, [C] strings.
        classes: the classes of each task, in the order of its labels, uint16 [T, K], indices into `names`.
        labels: uint8 or uint16 [T, M], from 0 to K - 1.
        predicted: labels predicted after the last inner step, as `labels`.
        probability: of the predicted label, uint8 [T, M], in 255ths.
    """

    names: np.ndarray
    classes: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """True for each right prediction, bool [T, M]."""
        return self.predicted == self.labels

    @property
    def correct_per_task(self) -> np.ndarray:
        """The right predictions of each task, uint16 [T]."""
        return self.correct.sum(axis=1).astype(np.uint16)

    def true_classes(self) -> np.ndarray:
        """The class of each query image, int [T, M]."""
        return np.take_along_axis(self.classes, self.labels.astype(int), axis=1).astype(int)

    def by_class(self) -> list[dict[str, Any]]:
        """A row per class that was tested: how often it was recognised, and as which other it was taken most often."""
        true, count = self.true_classes(), len(self.names)
        taken = np.take_along_axis(self.classes, self.predicted.astype(int), axis=1).astype(int)
        confusion = np.zeros((count, count), np.int64)
        np.add.at(confusion, (true.ravel(), taken.ravel()), 1)
        rows = []
        for index in np.flatnonzero(confusion.sum(axis=1)):
            others = confusion[index].copy()
            others[index] = 0
            worst = int(others.argmax())
            rows.append(
                {
                    "class": str(self.names[index]),
                    "queries": int(confusion[index].sum()),
                    "accuracy": float(confusion[index, index] / confusion[index].sum()),
                    "mistaken for": str(self.names[worst]) if others[worst] else "",
                    "times": int(others[worst]),
                }
            )
        return rows

    def ci95_by_class(self) -> float:
        """Half-width of the accuracy's 95 % interval where classes, not tasks, are the sample; 0 for one class.

        The cluster-robust standard error with the query images of a class as a cluster.
        """
        true, errors = self.true_classes().ravel(), self.correct.ravel() - self.correct.mean()
        sums = np.bincount(true, errors, len(self.names))
        clusters = len(np.unique(true))
        if clusters < 2:
            return 0.0  # not known
        spread = math.sqrt(clusters / (clusters - 1) * float((sums**2).sum())) / true.size
        return student_t95(clusters - 1) * spread


def make_predictions(
    logits: np.ndarray, labels: np.ndarray, classes: np.ndarray, names: Sequence[str]
) -> QueryPredictions:
    """The predictions of logits [T, M, K] after the last inner step; `classes` are int [T, K], indices into `names`."""
    from scipy.special import softmax

    small = np.uint8 if classes.shape[1] <= 256 else np.uint16
    probability = softmax(logits.astype(np.float64), axis=-1).max(axis=-1)
    return QueryPredictions(
        np.array(names, np.str_),
        classes.astype(np.uint16),
        labels.astype(small),
        logits.argmax(axis=-1).astype(small),
        np.nan_to_num(np.round(255 * probability)).astype(np.uint8),
    )


def save(file: BinaryIO, tests: Mapping[str, tuple[Evaluation, QueryPredictions]]) -> None:
    """Writes the predictions of tests, by `Evaluation.key`; parts that tests share are written once."""
    arrays: dict[str, Any] = {}
    for test, predictions in tests.values():
        for field, value in predictions._asdict().items():
            arrays[f"{test.task_key if field in _OF_TASKS else test.key}/{field}"] = value
    np.savez_compressed(file, **arrays)


def load(file: BinaryIO, tests: Sequence[Evaluation]) -> dict[str, QueryPredictions]:
    """Reads the predictions of those tests that a file has, by `Evaluation.key`."""
    with np.load(file, allow_pickle=False) as archive:
        arrays = dict(archive)
    return {
        test.key: QueryPredictions(
            *(
                arrays[f"{test.task_key if field in _OF_TASKS else test.key}/{field}"]
                for field in QueryPredictions._fields
            )
        )
        for test in tests
        if f"{test.key}/predicted" in arrays
    }
