"""Trains, measures and packs the models that come with the package.

    python -m experiments.pretrained --workdirs=runs/pretrained --omniglot_dir=DIR

Each model is trained twice up to 1,000 outer steps, once with `support` and once with `batch` statistics; the one
with the better validation accuracy under `support` is trained to the end. Its best epoch is written to
`mamlpp_jax/pretrained/` with a model card. The same command goes on where it was stopped.

DIR is a prepared TFDS folder with Omniglot, or holds its two official archives; without it they are downloaded.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time
from typing import Any

from absl import app, flags, logging

from experiments.child import child, leave_when_terminated
from experiments.pretrained_card import Notes, write_card
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.errors import MamlppError
from mamlpp_jax.inference.classifier import FewShotClassifier
from mamlpp_jax.inference.pretrained import SHIPPED
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE

_STATISTICS = ("support", "batch")
_TRIAL_STEPS = 1000
_POLL_SECONDS = 5.0
# Epochs of 500 outer steps of 8 tasks, all in first order: second order takes about three times as long.
_COMMON = {
    "task.way": 20,
    "train.steps_per_epoch": 500,
    "train.tasks_per_step": 8,
    "train.first_order_epochs": 10,
    "train.multi_step_epochs": 1,
    "norm.eval_statistics": "support,batch",
    "evaluation.tasks": 600,
    "seed": 0,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one model is made.

    Attributes:
        config: the configuration file and its argument.
        fields: what differs from it and from `_COMMON`.
        notes: what its card says about the data.
    """

    config: str
    fields: dict[str, Any]
    notes: Notes


RECIPES = {
    "glyphs": Recipe(
        "configs/quickstart.py",
        {"model.filters": 32, "train.epochs": 4},
        Notes(
            "Letters of many scripts rendered in the DejaVu typefaces, deformed a little (`data.name=glyphs`): 1,400 "
            "letters to train, 200 to validate, 400 to test.",
            "The typefaces' licence is in `NOTICES.txt`, one folder up.",
            "handwriting of people, photographs, or more than a sketch of a symbol",
        ),
    ),
    "omniglot": Recipe(
        "configs/omniglot.py:way=20,shot=1,protocol=short",
        {"model.filters": 64, "train.epochs": 10},
        Notes(
            "Omniglot (Lake, Salakhutdinov, Tenenbaum, Science 2015): 1,623 handwritten characters of 50 alphabets, "
            "each drawn by 20 people; 1,150 to train, 50 to validate, 423 to test, each quarter-turn rotation a class.",
            "Omniglot is under the MIT licence, Copyright (c) 2015 Brenden Lake; see `NOTICES.txt`, one folder up.",
            "photographs, or symbols whose orientation or fine detail alone tells them apart",
        ),
    ),
}

_WORKDIRS = flags.DEFINE_string("workdirs", "runs/pretrained", "Folder of the runs.")
_TARGET = flags.DEFINE_string("target", str(SHIPPED), "Folder of the finished models.")
_MODELS = flags.DEFINE_list("models", list(RECIPES), "Which to make.")
_OMNIGLOT_DIR = flags.DEFINE_string("omniglot_dir", "", "Prepared TFDS folder, or the archives.")
_SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE: another value of a field, to try it out.")


def train_command(name: str, statistics: str, workdir: pathlib.Path) -> list[str]:
    """The command that trains a model with one kind of statistics, and continues its training."""
    fields: dict[str, Any] = {
        "experiment": f"pretrained-{name}",
        "norm.train_statistics": statistics,
        **_COMMON,
        **RECIPES[name].fields,
    }
    fields |= dict(pair.split("=", 1) for pair in _SET.value)
    return [
        *("python", "-m", "mamlpp_jax.main", f"--config={RECIPES[name].config}"),
        f"--workdir={workdir}",
        *(f"--config.{field}={value}" for field, value in fields.items()),
    ]


def data_flags(name: str) -> list[str]:
    """Where the images are on this machine, which no card repeats."""
    folder = _OMNIGLOT_DIR.value
    if name != "omniglot" or not folder:
        return []
    prepared = (pathlib.Path(folder) / "omniglot").is_dir()
    return [f"--config.data.{'tfds' if prepared else 'manual'}_dir={folder}"]


def trial_accuracy(workdir: pathlib.Path) -> float | None:
    """Validation accuracy after the trial's steps, or at the end of a shorter run; None before."""
    try:
        rows = [row for row in read_metrics(workdir) if "val_accuracy" in row]
    except MamlppError:  # The run has not begun.
        return None
    reached = [row for row in rows if row["step"] >= _TRIAL_STEPS]
    if not reached and Workdir(workdir).results():
        reached = rows[-1:]
    return float(reached[0]["val_accuracy"]) if reached else None


def run(command: list[str], workdir: pathlib.Path, trial: bool) -> None:
    """Runs a training command, to the end or until the trial's steps are validated.

    Raises:
        MamlppError: the command failed.
    """
    if trial and trial_accuracy(workdir) is not None:
        return
    logging.info("%s", " ".join(command))
    with child([sys.executable, *command[1:]]) as process:
        while process.poll() is None and not (trial and trial_accuracy(workdir) is not None):
            time.sleep(_POLL_SECONDS)
    if process.returncode not in (0, STOPPED_EXIT_CODE):
        raise MamlppError(f"{' '.join(command)} ended with exit code {process.returncode}.")


def make_model(name: str) -> None:
    """Trains, measures and packs one model."""
    workdirs = {s: pathlib.Path(_WORKDIRS.value) / f"{name}-{s}" for s in _STATISTICS}
    for statistics, workdir in workdirs.items():
        command = [*train_command(name, statistics, workdir), *data_flags(name)]
        run(command, workdir, trial=True)
    trials = {statistics: trial_accuracy(workdirs[statistics]) or 0.0 for statistics in _STATISTICS}
    chosen = max(trials, key=trials.__getitem__)
    command = [*train_command(name, chosen, workdirs[chosen]), *data_flags(name)]
    run(command, workdirs[chosen], trial=False)
    if Workdir(workdirs[chosen]).results() is None:
        raise MamlppError(f"{workdirs[chosen]} is not finished; give the same command again.")
    target = pathlib.Path(_TARGET.value) / name
    FewShotClassifier.from_pretrained(workdirs[chosen]).save_pretrained(target)
    shown = train_command(name, chosen, pathlib.Path("runs/pretrained") / workdirs[chosen].name)
    write_card(target, workdirs[chosen], RECIPES[name].notes, " ".join(shown), trials)
    logging.info("%s is finished", target)


def main(argv: list[str]) -> None:
    """Makes the models that are not finished."""
    del argv
    logging.set_verbosity(logging.INFO)
    leave_when_terminated()
    try:
        for name in _MODELS.value:
            if name not in RECIPES:
                raise MamlppError(f"--models has {name!r}; choose from {', '.join(RECIPES)}.")
            make_model(name)
    except MamlppError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        logging.info("stopped; the same command goes on")
        sys.exit(130)


if __name__ == "__main__":
    app.run(main)
