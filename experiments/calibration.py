"""Fits the temperature of a saved model on validation tasks, and says how sure it then is, on test tasks.

    python -m experiments.calibration --model=FOLDER [--data_dir=DIR]

The temperature goes into the model, a section with a reliability figure into its card. It changes no prediction, only
probabilities. It is of classes like those of training; of images of no class it says nothing.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from experiments.command_line import run_main
from experiments.pretrained_card import data_classifier, test_episodes
from mamlpp_jax.inference.model import FewShotModel
from mamlpp_jax.inference.saved_model import CARD, load_model, save_model
from mamlpp_jax.reports.canvas import new_figure, save_figure
from mamlpp_jax.types import Episode
from mamlpp_jax.utils.files import write_atomically

SHOTS, BINS, TASKS = (1, 5), 10, 300
FIGURE = "reliability.png"
_SECTION = "## How sure"
_TEXT = """\
{section}

Probabilities are of logits divided by {temperature:.3f}, fitted by least cross-entropy on {tasks} {way}-way tasks of
the validation classes, with {shots} images of each class. On as many tasks of the test classes, with and without it:

| temperature | cross-entropy | expected calibration error, {bins} bins |
|---|---|---|
| {temperature:.3f} | {after[0]:.4f} | {after[1]:.4f} |
| 1 | {before[0]:.4f} | {before[1]:.4f} |

This is of images of the classes at hand; a stranger is told by its familiarity.

![Accuracy over probability]({figure})

"""


class Logits(NamedTuple):
    """Logits [n, K] of queries, of temperature 1, and their labels [n]."""

    logits: np.ndarray
    labels: np.ndarray


def query_logits(model: FewShotModel, episodes: Iterable[Episode]) -> Logits:
    """The logits of all queries of tasks, as the classifier has them, up to a constant of each query."""
    clf = data_classifier(dataclasses.replace(model, temperature=1.0))
    parts = [
        (
            clf.fit(e.support.inputs, e.support.targets).predict_log_proba(e.query.inputs),
            e.query.targets,
        )
        for e in episodes
    ]
    return Logits(*map(np.concatenate, zip(*parts, strict=True)))


def fit_temperature(known: Logits) -> float:
    """The temperature of least cross-entropy.

    Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
    """
    loss = minimize_scalar(
        lambda logarithm: cross_entropy(known, np.exp(logarithm)), bounds=(-3, 3), method="bounded"
    )
    return float(np.exp(loss.x))


def cross_entropy(known: Logits, temperature: float) -> float:
    """The mean cross-entropy of logits divided by a temperature."""
    log_p = log_softmax(known.logits / temperature, axis=1)
    return -float(log_p[range(len(known.labels)), known.labels].mean())


def reliability(known: Logits, temperature: float) -> np.ndarray:
    """Rows of the bins with predictions: share of all, mean probability of the predicted class, accuracy."""
    p = softmax(known.logits / temperature, axis=1)
    sure, right = p.max(1), p.argmax(1) == known.labels
    number = np.minimum((BINS * sure).astype(int), BINS - 1)
    return np.array(
        [
            (np.mean(number == k), sure[number == k].mean(), right[number == k].mean())
            for k in np.unique(number)
        ]
    )


def calibration_error(rows: np.ndarray) -> float:
    """The expected calibration error: the mean distance of probability and accuracy, weighted by the share."""
    return float(np.sum(rows[:, 0] * np.abs(rows[:, 1] - rows[:, 2])))


def calibrate(folder: pathlib.Path, data_dir: str, tasks: int = TASKS) -> None:
    """Writes temperature, figure and section into a saved model; `tasks` of each shot."""
    model = load_model(folder)
    config = ConfigDict(model.config)
    config.data.manual_dir = data_dir
    way = min(5, model.way)

    def logits(split: str) -> Logits:
        episodes = (e for shot in SHOTS for e in test_episodes(config, way, shot, tasks, split))
        return query_logits(model, episodes)

    temperature = fit_temperature(logits("val"))
    tested = logits("test")
    after, before = (reliability(tested, value) for value in (temperature, 1.0))
    _draw(folder / FIGURE, after, before)
    section = _TEXT.format(
        section=_SECTION,
        temperature=temperature,
        tasks=tasks * len(SHOTS),
        way=way,
        shots=" or ".join(map(str, SHOTS)),
        bins=BINS,
        after=(cross_entropy(tested, temperature), calibration_error(after)),
        before=(cross_entropy(tested, 1.0), calibration_error(before)),
        figure=FIGURE,
    )
    card = re.sub(rf"{_SECTION}\n.*?(?=## |\Z)", "", model.card, flags=re.DOTALL)
    head, limits, rest = card.partition("## Limits")
    card = f"{head.rstrip()}\n\n{section}{limits}{rest}".rstrip() + "\n"
    save_model(folder, dataclasses.replace(model, temperature=temperature))
    write_atomically(folder / CARD, card.encode())


def _draw(path: pathlib.Path, after: np.ndarray, before: np.ndarray) -> None:
    figure = new_figure(3.2, 2.8)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="#666666", linewidth=1)
    for rows, label, style in ((before, "as trained", "o--"), (after, "with temperature", "s-")):
        axes.plot(rows[:, 1], rows[:, 2], style, label=label)
    axes.set(xlabel="probability of the predicted class", ylabel="accuracy")
    axes.legend()
    save_figure(figure, path)


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "Folder of a saved model.", required=True)
    flags.DEFINE_string("data_dir", "", "Folder of its data, as data.manual_dir.")
    flags.DEFINE_integer("tasks", TASKS, "Tasks of each number of shots, and of each split.")


def _main() -> None:
    given = flags.FLAGS
    calibrate(pathlib.Path(given.model), given.data_dir, given.tasks)


if __name__ == "__main__":
    _define_flags()
    run_main(_main)
