"""Testing a run under other conditions: the flags, and the configuration that they amount to."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from mamlpp_jax.config.parts import INNER_LOSSES
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.sources.registry import is_inverted, known_channels
from mamlpp_jax.errors import ConfigError

# Flags that change an evaluation, and the configuration field that each stands for.
EVALUATION_FLAGS = {
    "way": "task.way",
    "shot": "task.shot",
    "query": "task.query",
    "inner_steps": "train.inner_steps",
    "tasks": "evaluation.tasks",
    "statistics": "norm.eval_statistics",
    "rotated": "data.rotate_evaluation",
}


@contextlib.contextmanager
def naming_flags(other_data: bool = False) -> Iterator[None]:
    """In an evaluation, an error names --way and not config.task.way, which only a training can change.

    Without --data_config the data are the run's, and no advice to change them helps.
    """
    try:
        yield
    except ConfigError as error:
        message = str(error)
        for flag, field in EVALUATION_FLAGS.items():
            message = message.replace(f"config.{field}", f"--{flag}")
        if other_data:
            message = message.replace("config.data.", "--data_config.data.")
        else:
            message = re.sub(r"(use at most|they may be at most) (\d+), or .*", r"\1 \2.", message)
        raise ConfigError(message) from error


def with_overrides(
    config: ConfigDict, overrides: Mapping[str, Any], data_config: ConfigDict | None
) -> ConfigDict:
    """A run's configuration as it is tested, with values of `EVALUATION_FLAGS` and perhaps other data.

    Other data are normalised as those that the run was trained on, and must have images of the same size.
    """
    changed = copy.deepcopy(config)
    _check_way(config, overrides.get("way", 0))
    changed.update_from_flattened_dict(
        {EVALUATION_FLAGS[flag]: value for flag, value in overrides.items()}
    )
    if data_config is None:
        if "rotated" in overrides and not config.data.rotations:
            raise ConfigError(
                "--rotated: rotations of this run's classes are no classes of their own (data.rotations=False), in "
                "training neither; leave the flag out."
            )
        return changed
    if data_config.data.image_size != config.data.image_size:
        raise ConfigError(
            f"--data_config has data.image_size {data_config.data.image_size}, but the run was trained on images of "
            f"{config.data.image_size} pixels; add --data_config.data.image_size={config.data.image_size}."
        )
    if is_inverted(config.data.name) and not is_inverted(data_config.data.name):
        logging.warning(
            "--data_config: the run was trained on bright ink on black, and the images of %s are taken as they are; "
            "those that are dark on light must be inverted first",
            data_config.data.name,
        )
    changed.data = copy.deepcopy(data_config.data)
    changed.data.normalize = config.data.normalize
    return changed


def _check_way(config: ConfigDict, way: int) -> None:
    """Checks that an inner loss which learns of the outputs has seen as many."""
    if way > config.task.way and INNER_LOSSES[config.inner.loss].of_outputs:
        raise ConfigError(
            f"--way is {way}, but the inner loss {config.inner.loss!r} of this run has learned of {config.task.way} "
            f"outputs; use at most {config.task.way}."
        )


def changed_rotations(config: ConfigDict, tested: ConfigDict) -> str:
    """Tells whether rotations of test classes are classes, "yes" or "no"; "" where this is as in the run's own test."""
    here = tested.data.rotations and tested.data.rotate_evaluation
    if here == (config.data.rotations and config.data.rotate_evaluation):
        return ""
    return "yes" if here else "no"


def check_channels(recorded: int, config: ConfigDict, dataset: Dataset) -> None:
    """Checks that a run's model can take other images, as far as the run tells."""
    trained, channels = recorded or known_channels(config.data), dataset.images.shape[-1]
    if trained not in (0, channels):
        raise ConfigError(
            f"--data_config: the images of {dataset.name} have {channels} channel(s), but the run was "
            f"trained on images of {trained}; data.channels of image_folder and tfds:<name> chooses (1 grey, 3 colour)."
        )
