"""From an experiment to the plain arguments of the figures in `mamlpp_jax.reports`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mamlpp_jax.algorithms.metrics import Predictions
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.reports import plots
from mamlpp_jax.training.experiment import Experiment
from mamlpp_jax.types import MetaState


def draw_run(
    workdir: Workdir,
    experiment: Experiment,
    best: MetaState,
    results: Mapping[str, Any],
    predictions: Predictions,
) -> None:
    """Draws learning curves, accuracy per inner step, learned inner rates and one test episode.

    Args:
        workdir: where the PNG files go and `metrics.jsonl` is.
        experiment: the parts.
        best: the state of the best epoch, whose inner rates are shown.
        results: the content of `results.json`, as JSON has it.
        predictions: on the test tasks; the first one is drawn.
    """
    plots.learning_curves(
        read_metrics(workdir.path),
        workdir.path / "learning_curves.png",
        way=experiment.config.task.way,
    )
    plots.accuracy_per_inner_step(results["test"], workdir.path / "accuracy_per_inner_step.png")
    rates = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(best.meta.inner)
    }
    if rates:
        plots.inner_rates(rates, workdir.path / "inner_rates.png")
    stream = experiment.tasks["test"]
    episode = jax.tree.map(lambda leaf: leaf[0], stream.episodes(1))
    plots.episode(
        episode.support_images,
        episode.support_labels,
        episode.query_images,
        episode.query_labels,
        np.asarray(jax.nn.softmax(predictions.logits[0, -1])),
        workdir.path / "episode.png",
        stream.task_class_names(0),
    )
