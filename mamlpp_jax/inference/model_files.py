"""The content of a model's files, whatever their layout: the checks that every layout shares."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax._version import __version__
from mamlpp_jax.errors import ConfigError, ModelError
from mamlpp_jax.inference.model import FewShotModel, without_weights
from mamlpp_jax.inference.preprocessing import POLARITIES, ImageFormat
from mamlpp_jax.statistics import check_usable

FORMAT = "mamlpp_jax few-shot model"


def describe(model: FewShotModel) -> dict[str, Any]:
    """The entries of a description, which with the configuration make the model but for its weights."""
    return {
        "steps": model.steps,
        "statistics": model.statistics,
        "inner_steps": model.inner_steps,
        "image": model.image_format._asdict(),
    }


def read_config(stored: Any, path: pathlib.Path) -> ConfigDict:
    """The configuration that a model was trained with, completed and checked field by field.

    Args:
        stored: fields as they were stored.
        path: the file that they are of, for the error.

    Raises:
        ModelError: a field is unknown or has a value that it may not have.
    """
    with naming_damage(path):
        config = config_lib.complete(stored, to_train=False)
        config_lib.check_values(config)
    return config


def read_description(
    description: dict[str, Any], config: ConfigDict, path: pathlib.Path
) -> FewShotModel:
    """A model without weights.

    Args:
        description: see `describe`.
        config: what it was trained with.
        path: the file of the description, for the error.

    Raises:
        ModelError: an entry is missing or not of its kind.
    """
    with naming_damage(path):
        config_lib.check_value("train.inner_steps", description["inner_steps"])
        statistics = description["statistics"]
        check_usable(statistics, config.norm.train_statistics, averaged=False)
        steps = tuple(description["steps"])
        if not steps or not all(type(step) is int and step >= 0 for step in steps):
            raise ValueError('"steps" must be a list of whole numbers, one per member.')
        image_format = _image_format(description["image"])
        return dataclasses.replace(
            without_weights(config, image_format.channels, steps),
            image_format=image_format,
            statistics=statistics,
            inner_steps=description["inner_steps"],
        )


def _image_format(entry: dict[str, Any]) -> ImageFormat:
    size, channels, polarity = entry["size"], entry["channels"], entry["polarity"]
    mean, std = (tuple(map(float, entry[name])) for name in ("mean", "std"))
    config_lib.check_value("data.image_size", size)
    if channels not in (1, 3) or type(channels) is not int:
        raise ValueError('"channels" must be 1 or 3.')
    if polarity not in (None, *(POLARITIES if channels == 1 else ())):
        raise ValueError(f'"polarity" must be null or, for grey, one of {", ".join(POLARITIES)}.')
    if len(mean) not in (1, channels) or len(std) != len(mean):
        raise ValueError('"mean" and "std" must have a number for each channel or one for all.')
    if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise ValueError('"mean" and "std" must be finite, "std" positive.')
    return ImageFormat(size, channels, mean, std, polarity)


@contextlib.contextmanager
def naming_damage(path: pathlib.Path) -> Iterator[None]:
    """Turns what wrong content of a file leads to into an error that names the file."""
    try:
        yield
    except ConfigError as error:
        raise ModelError(f"{path} does not fit mamlpp_jax {__version__}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ModelError(f"{path} is damaged: {problem}") from error
