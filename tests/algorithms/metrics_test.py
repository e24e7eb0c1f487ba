"""Scores, ensembles and intervals, by hand."""

import numpy as np
import pytest

from mamlpp_jax.algorithms.losses import CrossEntropy
from mamlpp_jax.algorithms.metrics import Predictions, ensemble, score
from mamlpp_jax.utils.arithmetic import student_t95


def test_smoothed_labels_share_their_weight_among_all_classes():
    logits = np.random.default_rng(0).normal(size=(6, 4))
    labels = np.array([0, 1, 2, 3, 0, 2])
    targets = 0.9 * np.eye(4)[labels] + 0.1 / 4
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(targets * log_p).sum(-1).mean()
    assert float(CrossEntropy(0.1)(logits, labels)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("dof", "t"),
    # Two-sided 95 % points as printed in tables of Student's t.
    [
        *((1, 12.706205), (2, 4.302653), (3, 3.182446), (4, 2.776445), (5, 2.570582)),
        *((9, 2.262157), (10, 2.228139), (29, 2.045230), (30, 2.042272)),
        *((100, 1.983972), (1000, 1.962339)),
    ],
)
def test_students_t_is_that_of_the_tables(dof, t):
    assert student_t95(dof) == pytest.approx(t, abs=1e-6)


def test_students_t_of_many_tasks_is_the_normal_one():
    assert student_t95(10**6) == pytest.approx(1.959966, abs=1e-6)


def test_score_by_hand():
    logits = np.zeros((4, 2, 2, 3), np.float32)
    labels = np.array([[0, 1]] * 4)
    logits[:, 1, 0, 0] = 1.0  # the first query is right after the step
    logits[:2, 1, 1, 1] = 1.0  # the second one in half of the tasks
    logits[2:, 1, 1, 2] = 1.0
    scores = score(Predictions(logits, labels))
    per_task = np.array([1.0, 1.0, 0.5, 0.5])
    assert scores.accuracy == pytest.approx(0.75)
    assert scores.ci95 == pytest.approx(student_t95(3) * per_task.std(ddof=1) / 2)
    assert scores.accuracy_per_step == pytest.approx([0.5, 0.75])
    right, wrong = -np.log(np.e / (np.e + 2)), -np.log(1 / (np.e + 2))
    assert scores.loss == pytest.approx((6 * right + 2 * wrong) / 8, rel=1e-5)


def test_ensemble_averages_logits_not_votes():
    labels = np.zeros((2, 1), int)
    votes = [np.array([3.0, 0.0]), np.array([-1.0, 0.0]), np.array([-1.0, 0.0])]
    models = [Predictions(np.broadcast_to(v, (2, 1, 1, 2)), labels) for v in votes]
    assert score(ensemble(models)).accuracy == 1.0
