"""Predictions on many tasks and their scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mamlpp_jax.utils.arithmetic import student_t95


class Predictions(NamedTuple):
    """Predictions of a model on T tasks.

    Example:
        >>> predictions = maml.Predictions(np.zeros((4, 6, 10, 5)), np.zeros((4, 10), int))
        >>> predictions.logits.shape[1]  # of five inner steps
        6
    """

    # float32 [T, S + 1, M, K], of the query set after 0..S inner steps; [T, 1, M, K] for the last step alone.
    logits: np.ndarray
    labels: np.ndarray  # classes of the query set, int32 [T, M]


class Scores(NamedTuple):
    """Accuracy over tasks, as fractions."""

    accuracy: float  # after the last inner step, mean over tasks
    ci95: float  # half-width of the 95 % interval over tasks, by Student's t
    loss: float  # mean cross-entropy after the last inner step
    accuracy_per_step: list[float]  # after 0..S inner steps, or after the last one alone


def ensemble(predictions: Sequence[Predictions]) -> Predictions:
    """Averages the logits of several models on the same tasks (section 5 of the paper).

    Example:
        >>> one = maml.Predictions(np.zeros((4, 1, 10, 5)), np.zeros((4, 10), int))
        >>> maml.ensemble([one, one]).logits.shape
        (4, 1, 10, 5)
    """
    logits = np.stack([p.logits for p in predictions]).mean(axis=0, dtype=np.float64)
    return Predictions(logits, predictions[0].labels)


def score(predictions: Predictions) -> Scores:
    """Accuracy, its interval over tasks, and loss.

    Example:
        >>> logits = np.eye(5)[np.tile(np.arange(5), (4, 1))][:, None]
        >>> maml.score(maml.Predictions(logits, np.tile(np.arange(5), (4, 1)))).accuracy
        1.0
    """
    from scipy.special import log_softmax

    logits, labels = predictions.logits.astype(np.float64), predictions.labels
    correct = (logits.argmax(-1) == labels[:, None]).mean(-1)  # [T, S + 1]
    last = correct[:, -1]
    log_p = np.take_along_axis(log_softmax(logits[:, -1], axis=-1), labels[..., None], axis=-1)
    return Scores(
        float(last.mean()), half_interval(last), float(-log_p.mean()), correct.mean(0).tolist()
    )


def half_interval(values: np.ndarray) -> float:
    """Half-width of the 95 % interval of the mean of values, [n], by Student's t."""
    return student_t95(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
