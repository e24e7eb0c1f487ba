"""The pictures of a run, drawn from its files and its first test task."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np

from mamlpp_jax.algorithms.evaluation import Predictions
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.reports import plots
from mamlpp_jax.training.experiment import Program
from mamlpp_jax.types import MetaState


def draw_run(
    workdir: pathlib.Path,
    program: Program,
    best: MetaState,
    results: dict[str, Any],
    answers: Predictions,
) -> None:
    """Draws learning curves, accuracy per inner step, learned inner rates and one test episode.

    Args:
        workdir: where the PNG files go and `metrics.jsonl` is.
        program: the parts.
        best: the state of the best epoch, whose inner rates are shown.
        results: the content of `results.json`.
        answers: on the test tasks; the first one is drawn.
    """
    plots.learning_curves(
        read_metrics(workdir), workdir / "learning_curves.png", way=program.config.task.way
    )
    plots.accuracy_per_inner_step(results["test"], workdir / "accuracy_per_inner_step.png")
    rates = {
        "/".join(str(part.key) for part in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(best.inner)
    }
    if rates:
        plots.inner_rates(rates, workdir / "inner_rates.png")
    draw_episode(workdir / "episode.png", program, answers)


def draw_episode(path: pathlib.Path, program: Program, answers: Predictions) -> None:
    """Draws the first test task with a model's answers to it."""
    episode = jax.tree.map(lambda leaf: leaf[0], program.episodes("test", 1))
    plots.episode(
        episode.support_images,
        episode.support_labels,
        episode.query_images,
        episode.query_labels,
        np.asarray(jax.nn.softmax(answers.logits[0, -1])),
        path,
        program.drawn_classes("test", 0),
    )
