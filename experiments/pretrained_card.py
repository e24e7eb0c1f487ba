"""Measures a trained model through `FewShotClassifier` and writes its model card."""

from __future__ import annotations

import copy
import itertools
import json
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from mamlpp_jax.algorithms.metrics import half_interval
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.config import serves_any_way
from mamlpp_jax.data.sources.registry import load_dataset
from mamlpp_jax.inference.classifier import FewShotClassifier
from mamlpp_jax.inference.model import FewShotModel
from mamlpp_jax.inference.model_card import model_card
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.inference.saved_model import CARD
from mamlpp_jax.reports.tables import markdown_table
from mamlpp_jax.training.experiment import build_experiment
from mamlpp_jax.types import Episode
from mamlpp_jax.utils.files import read_json, write_atomically, write_json

WAYS, SHOTS = (2, 5, 10, 20, 30), (1, 5)
_TASKS, _OTHER_TASKS = 600, 200  # of five ways, as usual in publications, and of other numbers
_USUAL_WAY = 5
_ORDER_TASKS, _ORDERS = 100, 5
_MEASURED = "card.json"  # in the run's folder: the results so far


class Notes(NamedTuple):
    """The card's sentences about the data."""

    data: str  # their content, in sentences
    licence: str  # their licence
    terms: str  # what the card's front matter calls it
    not_for: str  # uses that the model is not for


def test_episodes(
    config: ConfigDict,
    way: int,
    shot: int,
    tasks: int,
    split: str = "test",  # noqa: PT028
) -> Iterator[Episode]:
    """Yields the tasks of a split that `--mode=evaluate` takes, as NumPy arrays with pixels in 0..1."""
    changed = copy.deepcopy(config)
    changed.task.way, changed.task.shot = way, shot
    changed.data.normalize = "none"  # the classifier normalises
    changed.compute.devices = 1
    experiment = build_experiment(changed, load_dataset(changed.data), splits=(split,))
    episodes = experiment.tasks[split].episodes(tasks)
    for task in range(tasks):
        yield jax.tree.map(lambda leaf, task=task: leaf[task], episodes)


def accuracies(clf: FewShotClassifier, episodes: Iterator[Episode]) -> np.ndarray:
    """Returns the accuracy on each task."""
    scores = []
    for e in episodes:
        clf.fit(e.support.inputs, e.support.targets.tolist())
        scores.append(clf.score(e.query.inputs, e.query.targets.tolist()))
    return np.array(scores)


def order_effect(clf: FewShotClassifier, episodes: Iterator[Episode]) -> dict[str, float]:
    """Measures how much the order in which classes are numbered changes.

    "changed" is the share of predictions that differ from those of the first order; "spread" the standard deviation of
    the mean accuracy over orders.
    """
    rng = np.random.default_rng(0)
    changed, right = [], []
    for episode in episodes:
        predictions = []
        for _ in range(_ORDERS):
            names = rng.permutation(episode.support.targets.max() + 1)
            clf.fit(episode.support.inputs, names[episode.support.targets])
            predictions.append(np.argsort(names)[clf.predict(episode.query.inputs)])
        predicted = np.array(predictions, int)
        changed.append((predicted[1:] != predicted[0]).mean())
        right.append((predicted == episode.query.targets).mean(axis=1))
    spread = float(np.mean(right, axis=0).std(ddof=1))
    return {"changed": float(np.mean(changed)), "spread": spread}


def measure(target: pathlib.Path, workdir: pathlib.Path) -> dict[str, Any]:
    """Measures [accuracy, half of its interval, tasks] by "5-way 1-shot", and the order of classes' effect.

    Results that the run's `card.json` has are not measured again; each is written there at once.
    """
    config, path = Workdir(workdir).config(), workdir / _MEASURED
    model = find_model(target)
    steps = list(model.steps)
    measured = json.loads(path.read_text()) if path.exists() else {}
    if measured.get("steps") != steps:  # another epoch's
        measured = {"steps": steps}
    clf = data_classifier(model)
    for way, shot in itertools.product(_ways(workdir), SHOTS):
        name = f"{way}-way {shot}-shot"
        count = _TASKS if way == _USUAL_WAY else _OTHER_TASKS
        if len(measured.get(name, ())) != 3:
            scores = accuracies(clf, test_episodes(config, way, shot, count))
            measured[name] = [float(scores.mean()), half_interval(scores), count]
            write_json(path, measured)
            logging.info("%s: %s", name, measured[name])
    if "order" not in measured and not serves_any_way(config):  # whose outputs are no classes
        episodes = test_episodes(config, min(5, clf.model.way), 1, _ORDER_TASKS)
        measured["order"] = order_effect(clf, episodes)
        write_json(path, measured)
    return measured


def data_classifier(model: FewShotModel, statistics: str | None = None) -> FewShotClassifier:
    """A classifier of images as data sets have them, of the model's own statistics or of others."""
    polarity = "light_on_dark" if model.image_format.polarity else None
    return FewShotClassifier(model, statistics=statistics, polarity=polarity)


def _ways(workdir: pathlib.Path) -> list[int]:
    """Those of `WAYS` of which the test classes give tasks that differ: half of the classes at most."""
    classes = read_json(Workdir(workdir).data_file)["classes"]["test"]
    return [way for way in WAYS if 2 * way <= len(classes)]


def write_card(target: pathlib.Path, workdir: pathlib.Path, notes: Notes, command: str) -> None:
    """Measures the model in `target`, which the command made in `workdir`, and writes its card."""
    with warnings.catch_warnings():
        # More ways than trained are on purpose.
        warnings.simplefilter("ignore", UserWarning)
        measured = measure(target, workdir)
    run, model = Workdir(workdir).results() or {}, find_model(target)
    rows = [_row(measured, way, shot) for way in _ways(workdir) for shot in SHOTS]
    body = _BODY.format(
        notes=notes,
        command=command,
        run=run,
        task=run["config"]["task"],
        hardware=", ".join(f"{key} {value}" for key, value in run["hardware"].items()),
        table=markdown_table(rows),
        alone=model.statistics,
        order=_ORDER.format(**measured["order"]) if "order" in measured else _NO_ORDER,
    )
    card = model_card(model, name=target.name, licence=notes.terms, body=body)
    write_atomically(target / CARD, card.encode())


def _row(measured: Mapping[str, Any], way: int, shot: int) -> dict[str, Any]:
    accuracy, half, tasks = measured[f"{way}-way {shot}-shot"]
    shown = f"{100 * accuracy:.2f} ± {100 * half:.2f}"
    return {"way": way, "shot": shot, "tasks": tasks, "accuracy (%)": shown}


_ORDER = """\
Numbering the classes of a 5-way 1-shot task in another order changes {changed:.1%} of the predictions; the standard
deviation of the mean accuracy over orders is {spread:.2%}."""
_NO_ORDER = "How classes are numbered changes nothing, since no output belongs to one."
_BODY = """\
## Data

{notes.data} {notes.licence}

## Training

{run[steps]} outer steps in all, of which the best epoch by validation accuracy under `{alone}` was taken, at commit
{run[commit]} ({hardware}).

```
{command}
```

## Accuracy

Test classes, tasks of {task[query]} query image(s) per class, ± 95 % interval over tasks, measured through
`FewShotClassifier`, which classifies each image alone (`{alone}` statistics).

{table}

Tasks in training had {task[way]} classes. {order}

## Limits

Not for {notes.not_for}."""
