"""The pictures of a run, drawn from its files and its first test task."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mamlpp_jax import plots
from mamlpp_jax.data.episodes import draw_indices, task_key
from mamlpp_jax.evaluate import Predictions
from mamlpp_jax.parallel import local_copy
from mamlpp_jax.program import Program, task_shape
from mamlpp_jax.reporting import read_metrics
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
    source, first = local_copy(program.sources["test"]), jnp.zeros((1,), jnp.int32)
    episodes = program.draw(source, jnp.int32(0), first)
    episode = jax.tree.map(lambda leaf: np.asarray(leaf[0]), episodes)
    plots.episode(
        episode.support_images,
        episode.support_labels,
        episode.query_images,
        episode.query_labels,
        np.asarray(jax.nn.softmax(answers.logits[0, -1])),
        path,
        _drawn_class_names(program),
    )


def _drawn_class_names(program: Program) -> list[str]:
    """Names of the classes of the first test task, with the quarter turns they were drawn at."""
    source = local_copy(program.sources["test"])
    key = task_key(source, jnp.int32(0), jnp.int32(0))
    shape = task_shape(program.config)
    pictures, turns = draw_indices(key, source.starts, source.sizes, shape, program.largest_class)
    names = []
    for picture, turn in zip(np.asarray(pictures[:, 0]), np.asarray(turns), strict=True):
        position = int(
            np.argmax((source.starts <= picture) & (picture < source.starts + source.sizes))
        )
        name = program.class_names["test"][position]
        names.append(f"{name}, turned {90 * turn}°" if turn else name)
    return names
