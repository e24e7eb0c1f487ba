import numpy as np
import pytest

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.reports.run_figures import draw_run
from mamlpp_jax.types import Episode

RATES = {"conv0/kernel": np.array([0.1, 0.2])}


def draw(workdir, inner_rates):
    labels = np.arange(3)
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 1))
    test_row = {
        "model": "ensemble",
        "eval_statistics": "batch",
        "way": 3,
        "ci95": 0.1,
        "accuracy_per_step": [0.3, 0.6, 0.9],
    }
    draw_run(
        workdir,
        metrics=[{"step": 1, "loss": 1.0, "accuracy": 0.5}],
        test=[test_row],
        inner_rates=inner_rates,
        episode=Episode(images, labels, images, labels),
        probabilities=np.eye(3),
        class_names=["a", "b", "c"],
    )


@pytest.mark.parametrize(("rates", "heat_map"), [(RATES, ["inner_rates.png"]), ({}, [])])
def test_a_run_gets_its_figures(tmp_path, rates, heat_map):
    draw(tmp_path, rates)
    files = ["accuracy_per_inner_step.png", "episode.png", *heat_map, "learning_curves.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(WorkdirError, match=r"cannot write .*gone/learning_curves\.png"):
        draw(tmp_path / "gone", RATES)
