"""Measures how well a shipped model tells images of its classes from noise and from classes that it was not shown.

    python -m experiments.outliers --model=omniglot --output=experiments/results/outliers/omniglot.json

For every kind of task: the area under the ROC curve (AUROC) of `FewShotClassifier.familiarity`, and of the largest
probability for comparison, over test tasks of twice as many classes, of which the first half is shown. Noise is
uniform, of the model's size and of four times that. Data are read from MAMLPP_DATA_DIR/omniglot or the like where that
variable is set.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from scipy.stats import mannwhitneyu

from experiments.command_line import run_main
from experiments.pretrained_card import data_classifier, test_episodes
from mamlpp_jax.artifacts.provenance import provenance
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.utils.files import write_json


def auroc(known: np.ndarray, others: np.ndarray) -> float:
    """The probability that an image of a known class scores higher than another one."""
    return float(mannwhitneyu(known, others).statistic / (len(known) * len(others)))


def measure(name: str, way: int, shot: int, tasks: int) -> dict[str, Any]:
    """The AUROCs of one kind of task, by score and sort of outlier."""
    model = find_model(name)
    config = ConfigDict(model.config.to_dict())
    folder = pathlib.Path(os.environ.get("MAMLPP_DATA_DIR", ""), config.data.name)
    if folder.is_absolute() and folder.is_dir():
        config.data.manual_dir = str(folder)
    clf = data_classifier(model)
    rng, (size, _, channels) = np.random.default_rng(0), model.image_format.shape
    scores: dict[tuple[str, str], list[np.ndarray]] = {}
    for episode in test_episodes(config, 2 * way, shot, tasks):
        shown, asked = episode.support.targets < way, episode.query.targets < way
        clf.fit(episode.support.inputs[shown], episode.support.targets[shown])
        groups = {
            "known": episode.query.inputs[asked],
            "left-out classes": episode.query.inputs[~asked],
            "noise": list(rng.integers(0, 256, (way, size, size, channels), np.uint8)),
            "noise, large": list(
                rng.integers(0, 256, (way, 4 * size, 4 * size, channels), np.uint8)
            ),
        }
        for group, images in groups.items():
            predictions = clf.classify(clf.preprocess(images))
            largest = predictions.log_probabilities.max(axis=1)
            for score, values in (
                ("familiarity", predictions.familiarity),
                ("probability", largest),
            ):
                scores.setdefault((score, group), []).append(values)
    whole = {key: np.concatenate(values) for key, values in scores.items()}
    return {
        "way": way,
        "shot": shot,
        "tasks": tasks,
        **{
            f"{score}, {group}": round(auroc(whole[score, "known"], values), 4)
            for (score, group), values in whole.items()
            if group != "known"
        },
    }


def _main() -> None:
    given = flags.FLAGS
    way = find_model(given.model).way
    kinds = dict.fromkeys([(5, 1), (5, 5), (way, 1)])  # (way, shot)
    rows = [measure(given.model, *kind, given.tasks) for kind in kinds]
    command = f"python -m experiments.outliers --model={given.model} --tasks={given.tasks}"
    record = {"command": command, "seed": 0, **provenance(1), "auroc": rows}
    path = pathlib.Path(given.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    print(path.read_text())


if __name__ == "__main__":
    flags.DEFINE_string("model", "omniglot", "Name of a shipped model.")
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_integer("tasks", 100, "Test tasks of each kind.", lower_bound=1)
    run_main(_main)
