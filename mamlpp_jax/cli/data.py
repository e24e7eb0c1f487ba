"""Prepares a data set, says what is in it and draws what a model will see.

python -m mamlpp_jax.data --config=configs/mini_imagenet.py --config.data.manual_dir=DIR --contact_sheet=FILE.png
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.cli.flags import CONFIG, fail, output_file, parse_flags
from mamlpp_jax.cli.log import set_up_log
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.pipeline import TaskStream
from mamlpp_jax.data.sources.registry import load_dataset
from mamlpp_jax.errors import ConfigError, MamlppError
from mamlpp_jax.reports import contact_sheet
from mamlpp_jax.reports.canvas import FORMATS, save_figure
from mamlpp_jax.training.experiment import (
    Experiment,
    build_experiment,
    check_tasks,
    choose_classes,
    task_spec,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CONTACT_SHEET = flags.DEFINE_string(
    "contact_sheet", None, "PNG, PDF or SVG file to draw classes and sample episodes into."
)

_EPISODES = 2  # of each split, in the contact sheet


def describe(config: ConfigDict, dataset: Dataset) -> str:
    """The counts of a data set and of its splits, as lines of text."""
    classes = choose_classes(config, dataset)
    high, wide, channels = dataset.images.shape[1:]
    lines = [
        f"{config.data.name}: {dataset.num_classes} classes, {len(dataset.images)} images, "
        f"{high}x{wide}x{channels}, {dataset.images.nbytes / 2**20:,.0f} MiB"
    ]
    for split, members in classes.items():
        sizes = dataset.class_sizes[members]
        low, high = int(sizes.min()), int(sizes.max())
        rotations = task_spec(config, split).rotations
        lines.append(
            f"{split + ':':<6} {len(members):>5} classes, {int(sizes.sum()):>6} images, "
            f"{low if low == high else f'{low} to {high}'} per class"
            + (f"; with rotations {rotations * len(members)} classes" if rotations > 1 else "")
        )
    unused = dataset.num_classes - sum(map(len, classes.values()))
    return "\n".join([*lines, *([f"unused: {unused} classes"] if unused else [])])


def draw_contact_sheet(experiment: Experiment, dataset: Dataset) -> Figure:
    """Draws every split's classes in name order and its first episodes, without normalisation."""
    class_images = np.split(dataset.images, np.cumsum(dataset.class_sizes)[:-1])
    images = dict(zip(dataset.class_names, class_images, strict=True))
    splits = [
        contact_sheet.SplitSample(
            split,
            {name: images[name] for name in sorted(stream.class_names)},
            stream.episodes(_EPISODES),
            [stream.task_class_names(task) for task in range(_EPISODES)],
        )
        for split, stream in experiment.tasks.items()
        if isinstance(stream, TaskStream)
    ]
    spec = task_spec(experiment.config)
    return contact_sheet.draw(splits, spec.mean, spec.std)


def _main(argv: list[str]) -> None:
    del argv
    set_up_log()
    try:
        if CONFIG.value is None:
            raise ConfigError("--config is missing, for example --config=configs/mini_imagenet.py.")
        config = config_lib.with_default_compute(CONFIG.value)
        config.compute.devices = 1
        config_lib.validate(config)
        sheet = output_file(_CONTACT_SHEET, FORMATS)
        dataset = load_dataset(config.data)
        print(describe(config, dataset), flush=True)
        check_tasks(config, dataset, choose_classes(config, dataset))
        if sheet:
            save_figure(draw_contact_sheet(build_experiment(config, dataset), dataset), sheet)
            print(f"contact sheet: {sheet}")
    except MamlppError as error:
        fail(str(error))


def main() -> None:
    """Runs the command on its flags."""
    app.run(_main, flags_parser=partial(parse_flags, configs=(CONFIG,), module=__name__))
