"""The fitted temperature is the one that probabilities were made with, and a saved model keeps it."""

import numpy as np
import pytest

from experiments import pretrained_card
from experiments.calibration import (
    Logits,
    calibrate,
    calibration_error,
    cross_entropy,
    fit_temperature,
    reliability,
)
from mamlpp_jax import FewShotClassifier
from mamlpp_jax.inference.saved_model import load_model, save_model
from tests.helpers.small_models import small_model
from tests.helpers.small_runs import patterns, small_config


def sampled(temperature, count=20_000):
    """Logits of labels that are drawn with the probabilities of the logits divided by a temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 4)) * 3
    noise = rng.gumbel(size=logits.shape)
    return Logits(logits, (logits / temperature + noise).argmax(1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    known = sampled(temperature)
    fitted = fit_temperature(known)
    assert abs(fitted / temperature - 1) < 0.05
    assert cross_entropy(known, fitted) <= cross_entropy(known, temperature) + 1e-9
    assert calibration_error(reliability(known, fitted)) < 0.015
    assert calibration_error(reliability(known, 4 * fitted)) > 0.1


def test_the_calibration_error_is_the_weighted_distance():
    known = Logits(
        np.log(np.array([[0.95, 0.05]] * 4 + [[0.65, 0.35]] * 4)),
        np.array([0, 0, 0, 1, 0, 0, 0, 0]),
    )
    rows = reliability(known, 1.0)
    np.testing.assert_allclose(rows, [[0.5, 0.65, 1.0], [0.5, 0.95, 0.75]])
    assert calibration_error(rows) == pytest.approx(0.5 * 0.35 + 0.5 * 0.2)


def test_a_model_keeps_its_temperature_and_its_predictions(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained_card, "load_dataset", lambda data: patterns())
    model = small_model(small_config(**{"evaluation.tasks": 4}))
    save_model(tmp_path, model.changed(card="# A model\n\n## Limits\n\nNone.\n"))
    images = patterns().images[:9]
    before = FewShotClassifier.from_pretrained(tmp_path).fit(images[:6], [0, 0, 0, 1, 1, 1])
    for _ in range(2):  # again, and the section is replaced
        calibrate(tmp_path, "", tasks=2)
    model = load_model(tmp_path)
    assert model.temperature != 1.0
    after = FewShotClassifier.from_pretrained(tmp_path).fit(images[:6], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(before.predict(images), after.predict(images))
    ours, theirs = after.predict_proba(images), before.predict_proba(images)
    odds = [np.log(p[:, 1] / p[:, 0]) for p in (ours, theirs)]
    np.testing.assert_allclose(odds[0] * model.temperature, odds[1], rtol=1e-3, atol=1e-4)
    assert model.card.count("## How sure") == model.card.count("## Limits") == 1
    assert f"| {model.temperature:.3f} |" in model.card
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
