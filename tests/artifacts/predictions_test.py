"""Predictions of query images: accuracy by class, confusion and the interval over classes, by hand."""

import io
import math

import numpy as np
import pytest

from mamlpp_jax.artifacts import predictions as predictions_lib
from mamlpp_jax.artifacts.predictions import make_predictions
from mamlpp_jax.artifacts.results import Evaluation

NAMES = ("ant", "bee", "cat")
# Two tasks of two classes: cat and ant, ant and bee; a bee is taken for an ant.
CLASSES = np.array([[2, 0], [0, 1]])
LABELS = np.array([[0, 1], [0, 1]])
LOGITS = np.log(np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.7, 0.3]]]))


def made():
    return make_predictions(LOGITS, LABELS, CLASSES, NAMES)


def evaluation(model="best", accuracy=0.75):
    return Evaluation(model, "batch", "batch", 2, 1, 1, 5, 2, accuracy, 0.1, 0.5, [0.5, accuracy])


def test_predictions_follow_from_logits():
    of = made()
    assert of.correct.tolist() == [[True, True], [True, False]]
    np.testing.assert_allclose(of.probability / 255, [[0.9, 0.8], [0.6, 0.7]], atol=0.5 / 255)
    assert {array.dtype.itemsize for array in of[2:]} == {1}


def test_a_row_per_class_with_what_it_is_mistaken_for():
    ant, bee, cat = made().by_class()
    assert (ant["class"], ant["queries"], ant["accuracy"], ant["mistaken for"]) == (
        "ant",
        2,
        1.0,
        "",
    )
    assert (bee["accuracy"], bee["mistaken for"], bee["times"]) == (0.0, "ant", 1)
    assert cat["accuracy"] == 1.0


def test_the_interval_over_classes_takes_their_images_together():
    of = made()
    sums = np.array([2 * 0.25, -0.75, 0.25])  # of the errors of ant, bee and cat
    expected = 4.302653 * math.sqrt(3 / 2 * (sums**2).sum()) / 4
    assert of.ci95_by_class() == pytest.approx(expected)
    alone = of._replace(classes=np.zeros_like(of.classes))
    assert alone.ci95_by_class() == 0.0


def test_what_tests_share_is_stored_once_and_read_again():
    tests = [evaluation("best"), evaluation("ensemble")]
    file = io.BytesIO()
    predictions_lib.save(file, {test.key: (test, made()) for test in tests})
    file.seek(0)
    with np.load(file) as archive:
        assert len(archive.files) == 3 + 2 * 2
    file.seek(0)
    read = predictions_lib.load(file, [*tests, evaluation("other")])
    assert list(read) == [test.key for test in tests]
    for of in read.values():
        for ours, theirs in zip(of, made(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
