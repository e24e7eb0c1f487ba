"""Scores and ensembles, by hand."""

import numpy as np
import pytest

from mamlpp_jax.algorithms.metrics import Predictions, ensemble, score


def test_score_by_hand():
    logits = np.zeros((4, 2, 2, 3), np.float32)
    labels = np.array([[0, 1]] * 4)
    logits[:, 1, 0, 0] = 1.0  # the first query is right after the step
    logits[:2, 1, 1, 1] = 1.0  # the second one in half of the tasks
    logits[2:, 1, 1, 2] = 1.0
    scores = score(Predictions(logits, labels))
    per_task = np.array([1.0, 1.0, 0.5, 0.5])
    assert scores.accuracy == pytest.approx(0.75)
    assert scores.ci95 == pytest.approx(1.96 * per_task.std(ddof=1) / 2)
    assert scores.accuracy_per_step == pytest.approx([0.5, 0.75])
    right, wrong = -np.log(np.e / (np.e + 2)), -np.log(1 / (np.e + 2))
    assert scores.loss == pytest.approx((6 * right + 2 * wrong) / 8, rel=1e-5)


def test_ensemble_averages_logits_not_votes():
    labels = np.zeros((2, 1), int)
    votes = [np.array([3.0, 0.0]), np.array([-1.0, 0.0]), np.array([-1.0, 0.0])]
    models = [Predictions(np.broadcast_to(v, (2, 1, 1, 2)), labels) for v in votes]
    assert score(ensemble(models)).accuracy == 1.0
