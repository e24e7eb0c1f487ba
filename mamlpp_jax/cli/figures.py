"""From an experiment to the plain arguments of the figures in `mamlpp_jax.reports`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from mamlpp_jax.algorithms.metrics import Predictions
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.results import TestResult
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.reports import run_figures
from mamlpp_jax.training.experiment import Experiment
from mamlpp_jax.types import MetaState


def draw_run(
    workdir: Workdir,
    experiment: Experiment,
    best: MetaState,
    test: Sequence[TestResult],
    predictions: Predictions,
) -> None:
    """Draws learning curves, accuracy per inner step, learned inner rates and one test episode.

    Args:
        workdir: where the PNG files go and `metrics.jsonl` is.
        experiment: the parts.
        best: the state of the best epoch, whose inner rates are shown.
        test: the rows of `results.json`.
        predictions: on the test tasks; the first one is drawn.
    """
    rates = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(best.meta.inner)
    }
    stream = experiment.tasks["test"]
    run_figures.draw_run(
        workdir.path,
        metrics=read_metrics(workdir.path),
        test=[result.to_row() for result in test],
        inner_rates=rates,
        episode=jax.tree.map(lambda leaf: leaf[0], stream.episodes(1)),
        probabilities=np.asarray(jax.nn.softmax(predictions.logits[0, -1])),
        class_names=stream.task_class_names(0),
    )
