"""The figures that a finished run leaves in its working directory."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mamlpp_jax.reports import episode_figure, plots
from mamlpp_jax.reports.canvas import save_png
from mamlpp_jax.types import Episode


def draw_run(
    workdir: pathlib.Path,
    *,
    metrics: Sequence[Mapping[str, Any]],
    test: Sequence[Mapping[str, Any]],
    inner_rates: Mapping[str, np.ndarray],
    episode: Episode,
    probabilities: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Draws learning curves, accuracy per inner step, learned inner rates and one test episode.

    Args:
        workdir: folder for the PNG files.
        metrics: rows of `metrics.jsonl`.
        test: rows of the "test" list of `results.json`.
        inner_rates: name to rates [S, ...]; no figure is drawn when it is empty.
        episode: one test task, NumPy arrays.
        probabilities: float [M, K], the predicted distribution of each query image of `episode`.
        class_names: [K], of `episode`.

    Raises:
        WorkdirError: a file cannot be written.
    """
    figures = {
        "learning_curves": plots.learning_curves(metrics, way=probabilities.shape[1]),
        "accuracy_per_inner_step": plots.accuracy_per_inner_step(test),
        "episode": episode_figure.draw(episode, probabilities, class_names),
    }
    if inner_rates:
        figures["inner_rates"] = plots.inner_rates(inner_rates)
    for name, figure in figures.items():
        save_png(figure, workdir / f"{name}.png")
