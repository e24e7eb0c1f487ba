"""Trains, measures and packs the models that come with the package.

    python -m experiments.pretrained [--models=omniglot]

The best epoch of each run is written to `mamlpp_jax/pretrained/` with a model card. The same command goes on where it
was stopped. Data are taken from MAMLPP_DATA_DIR/omniglot and MAMLPP_DATA_DIR/mini_imagenet where that variable is set;
else Omniglot's two official archives are downloaded. Exit codes: 0 the models are made; 1 a run failed; 2 bad input;
75 stopped.
"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from absl import flags, logging

from experiments.calibration import calibrate
from experiments.command_line import run_main
from experiments.launcher import Launcher
from experiments.paper.runs import Run
from experiments.pretrained_card import Notes, write_card
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.inference.pretrained import SHIPPED, find_model
from mamlpp_jax.inference.saved_model import save_model
from mamlpp_jax.inference.weights import rounded_to_half

_SHOWN = pathlib.Path("runs/pretrained")  # the runs' folder in the commands of a card
# Epochs of 500 outer steps of 8 tasks, all in first order: second order takes about three times as long.
_COMMON = {
    "norm.train_statistics": "support",
    "task.way": 20,
    "train.steps_per_epoch": 500,
    "train.tasks_per_step": 8,
    "train.first_order_epochs": 10,
    "train.multi_step_epochs": 1,
    "norm.eval_statistics": "support,batch",
    "evaluation.tasks": 600,
}


class Recipe(NamedTuple):
    """How one model is made."""

    run: Run  # its training
    notes: Notes  # what its card says about the data
    start: Run | None = None  # the training whose weights it starts from


RECIPES = {
    "glyphs": Recipe(
        Run(
            *("quickstart", 20, 1, "maml++", "none"),
            folder="glyphs-support",
            fields={
                "experiment": "pretrained-glyphs",
                **_COMMON,
                "model.filters": 32,
                "train.epochs": 4,
            },
        ),
        Notes(
            "Letters of many scripts rendered in the DejaVu typefaces, deformed a little (`data.name=glyphs`): 1,400 "
            "letters to train, 200 to validate, 400 to test.",
            "The typefaces' licence is in `NOTICES.txt`, one folder up.",
            "mit",
            "handwriting of people, photographs, or more than a sketch of a symbol",
        ),
    ),
    "omniglot": Recipe(
        Run(
            *("omniglot", 20, 1, "maml++", "short"),
            folder="omniglot-support",
            fields={"experiment": "pretrained-omniglot", **_COMMON},
        ),
        Notes(
            "Omniglot (Lake, Salakhutdinov, Tenenbaum, Science 2015): 1,623 handwritten characters of 50 alphabets, "
            "each drawn by 20 people; 1,150 to train, 50 to validate, 423 to test, each quarter-turn rotation a class.",
            "Omniglot is under the MIT licence, Copyright (c) 2015 Brenden Lake; see `NOTICES.txt`, one folder up.",
            "mit",
            "photographs, or symbols whose orientation or fine detail alone tells them apart",
        ),
    ),
    "photos": Recipe(
        Run(
            *("mini_imagenet", 5, 1, "anil+sharedhead+ca", "none"),
            folder="photos",
            fields={
                "experiment": "pretrained-photos",
                "model.name": "resnet12",
                "model.filters": 16,
                "model.normalize_features": True,
                "task.query": 5,
                # Each query alone, by the statistics of pretraining as they are: those of a few support images change
                # too much from step to step for an inner loop that reads them.
                "norm.running_decay": 1.0,
                "norm.train_statistics": "running",
                "norm.eval_statistics": "running",
                "inner.learning_rate": 0.03,
                "train.inner_steps": 15,
                "train.learning_rate": 3e-5,
                "train.epochs": 5,
                "train.steps_per_epoch": 80,
                "train.clip_norm": 1.0,
                "train.tasks_per_step": 4,
                "evaluation.tasks": 300,
            },
        ),
        Notes(
            "mini-ImageNet (Vinyals et al., NIPS 2016; split of Ravi & Larochelle): photographs of 100 classes of "
            "ImageNet, 84 x 84 pixels; 64 classes to train, 16 to validate, 20 to test.",
            "ImageNet's images are for non-commercial research and education, and so is this model.",
            "other",
            "fine differences (breeds, species), drawings, text, or medical and satellite images without a test on "
            "one's own; photographs unlike ImageNet's, of one object each, are told apart less well",
        ),
        start=Run(
            *("pretrain", 5, 1, "supervised", "none"),
            folder="photos-pretrained",
            fields={"model.filters": 16, "train.epochs": 20, "evaluation.tasks": 100},
        ),
    ),
}


def make_model(name: str, workdirs: pathlib.Path, target: pathlib.Path, launcher: Launcher) -> int:
    """Trains, measures and packs a model of `RECIPES` into the folder `target`; returns its training's exit code."""
    run, notes, start = RECIPES[name]
    workdirs.mkdir(parents=True, exist_ok=True)
    commands = []
    for part in filter(None, (start, run)):
        further = _starting_from(workdirs / start.name) if start and part is run else []
        workdir, log = workdirs / part.name, workdirs / f"{part.name}.log"
        logging.info("%s, its log in %s", name, log)
        with launcher.listening():
            code = launcher(part.command(workdir, further), log)
        if code:
            logging.error("%s ended with exit code %d; see %s", name, code, log)
            return code
        shown = _starting_from(_SHOWN / start.name) if further and start else []
        program = f"python -m mamlpp_jax.main --workdir={_SHOWN / part.name}"
        commands.append(" ".join([program, *part.flags, *shown]))
    model = rounded_to_half(find_model(workdirs / run.name))
    save_model(target / name, model)
    write_card(target / name, workdirs / run.name, notes, "\n".join(commands))
    calibrate(target / name, Workdir(workdirs / run.name).config().data.manual_dir)
    logging.info("%s is finished", target / name)
    return 0


def _starting_from(folder: pathlib.Path) -> list[str]:
    return [f"--config.train.start_from={folder}"]


def _define_flags() -> None:
    flags.DEFINE_string("workdirs", str(_SHOWN), "Folder of the runs and their logs.")
    flags.DEFINE_string("target", str(SHIPPED), "Folder of the finished models.")
    flags.DEFINE_list("models", list(RECIPES), "Which to make.")


def _main() -> int:
    workdirs, target = pathlib.Path(flags.FLAGS.workdirs), pathlib.Path(flags.FLAGS.target)
    if unknown := [name for name in flags.FLAGS.models if name not in RECIPES]:
        raise ConfigError(f"--models has {unknown[0]!r}; choose from {', '.join(RECIPES)}.")
    codes = (make_model(name, workdirs, target, Launcher()) for name in flags.FLAGS.models)
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    _define_flags()
    run_main(_main)
