"""The figures of a finished run, drawn by `mamlpp_jax.reports` from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from mamlpp_jax.algorithms.averaging import evaluated_meta
from mamlpp_jax.algorithms.metrics import Predictions
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.results import Evaluation
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.data.pipeline import TaskStream
from mamlpp_jax.reports import episode_figure, plots
from mamlpp_jax.reports.canvas import save_figure
from mamlpp_jax.training.experiment import Experiment
from mamlpp_jax.types import MetaState
from mamlpp_jax.utils.trees import entry, named_leaves


def draw_run(
    workdir: Workdir,
    experiment: Experiment,
    best: MetaState,
    test: Sequence[Evaluation],
    predictions: Predictions | None,
) -> None:
    """Draws learning curves, accuracy per inner step, learned inner rates and one test episode into the workdir.

    The inner rates are those of `best`, the state of the best epoch; the episode is the first of the test tasks.
    """
    stream, metrics = experiment.tasks["test"], read_metrics(workdir.path)
    figures = {
        "learning_curves": plots.learning_curves(
            metrics, experiment.config.task.way, experiment.config.train.multi_step_epochs
        ),
    }
    if test:
        rows = [row.to_row() for row in test]
        figures["accuracy_per_inner_step"] = plots.accuracy_per_inner_step(rows)
    if isinstance(stream, TaskStream) and predictions:  # else perhaps no images
        figures["episode"] = episode_figure.draw(
            entry(stream.episodes(1), 0),
            np.asarray(jax.nn.softmax(predictions.logits[0, -1])),
            stream.task_class_names(0),
        )
    learned = experiment.learner.inner_optimizer.rates(evaluated_meta(best).inner)
    if rates := named_leaves(jax.tree.map(np.asarray, learned)):
        figures["inner_rates"] = plots.inner_rates(rates)
    for name, figure in figures.items():
        save_figure(figure, workdir.path / f"{name}.png")
