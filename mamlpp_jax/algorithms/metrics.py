"""Predictions on many tasks and their scores."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Predictions(NamedTuple):
    """What a model predicts on T tasks.

    Attributes:
        logits: float32 [T, S + 1, M, K], of the query set after 0..S inner steps; [T, 1, M, K] where
            only the last step was asked for.
        labels: int32 [T, M].
    """

    logits: np.ndarray
    labels: np.ndarray


class Scores(NamedTuple):
    """Accuracy over tasks, as fractions.

    Attributes:
        accuracy: after the last inner step, mean over tasks.
        ci95: half-width of the 95 % interval over tasks, by Student's t.
        loss: mean cross-entropy after the last inner step.
        accuracy_per_step: after 0..S inner steps, or after the last one alone.
    """

    accuracy: float
    ci95: float
    loss: float
    accuracy_per_step: list[float]


def ensemble(predictions: Sequence[Predictions]) -> Predictions:
    """Averages the logits of several models on the same tasks (section 5 of the paper)."""
    logits = np.stack([p.logits for p in predictions]).mean(axis=0, dtype=np.float64)
    return Predictions(logits, predictions[0].labels)


def score(predictions: Predictions) -> Scores:
    """Accuracy, its interval over tasks, and loss."""
    logits, labels = predictions.logits.astype(np.float64), predictions.labels
    correct = (logits.argmax(-1) == labels[:, None]).mean(-1)  # [T, S + 1]
    last = correct[:, -1]
    ci95 = student_t95(len(last) - 1) * float(last.std(ddof=1)) / math.sqrt(len(last))
    return Scores(float(last.mean()), ci95, _loss(logits[:, -1], labels), correct.mean(0).tolist())


def correct_per_task(predictions: Predictions) -> np.ndarray:
    """How many query images of each task are right after the last inner step, uint16 [T]."""
    right = predictions.logits[:, -1].argmax(-1) == predictions.labels
    return right.sum(-1).astype(np.uint16)


@functools.lru_cache
def student_t95(dof: int) -> float:
    """The t that Student's distribution with `dof` >= 1 degrees of freedom stays within with probability 0.95.

    Bisects its distribution function, a finite series in the angle atan(t / sqrt(dof)).

    References:
        Abramowitz & Stegun, Handbook of Mathematical Functions, 1964, 26.7.3 and 26.7.4.
    """
    odd = dof % 2
    k = np.arange(2 + odd, dof - 1, 2)
    factors = np.cumprod(np.append(1.0, (k - 1) / k))
    powers = 2 * np.arange(len(factors)) + odd

    def within(angle: float) -> float:
        series = math.sin(angle) * float((factors * math.cos(angle) ** powers).sum())
        if not odd:
            return series
        return 2 / math.pi * (angle + (series if dof > 1 else 0.0))

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 0.95 else (low, middle)
    return math.sqrt(dof) * math.tan(low)


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy of logits [T, M, K] and labels [T, M]."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_partition = np.log(np.exp(shifted).sum(-1))
    chosen = np.take_along_axis(shifted, labels[..., None], axis=-1)[..., 0]
    return float((log_partition - chosen).mean())
