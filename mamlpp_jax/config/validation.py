"""Checks of a configuration. Every error is a `ConfigError` with the field, its value and the allowed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mamlpp_jax.config import rules
from mamlpp_jax.config.fields import FIELDS, flatten
from mamlpp_jax.config.methods import check_method
from mamlpp_jax.config.own_code import is_own
from mamlpp_jax.config.parts import (
    BACKBONES,
    INIT_THETA,
    INNER_LOSSES,
    INNER_OPTIMIZERS,
    OUTER_DIRECTIONS,
    OWN_DATA,
    PartTable,
)
from mamlpp_jax.config.rules import parse_list
from mamlpp_jax.config.stored import check_field, complete
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.statistics import check_usable

_FEW = 6  # tasks of two classes take six: two each for training, validation and test
FEW_CLASSES = (
    " To tell so few classes apart, train nothing: python -m mamlpp_jax.predict --model=MODEL --support=DIR "
    "--query=IMAGES learns them from the images in DIR, a folder per class."
)
_FOR_COLOUR = ("imagenet",)  # values of data.normalize for three channels


def from_dict(stored: dict[str, Any]) -> ConfigDict:
    """The configuration of a `config.json`, completed and checked; see `stored.complete`."""
    config = complete(stored)
    validate(config)
    return config


def validate(config: ConfigDict) -> None:
    """Checks everything that can be judged without data and devices."""
    check_types(config)
    check_values(config)
    check_method(config)
    _check_options(config, "model.name", BACKBONES)
    _check_options(config, "inner.optimizer", INNER_OPTIMIZERS)
    _check_options(config, "inner.loss", INNER_LOSSES)
    _check_options(config, "inner.init_theta", INIT_THETA)
    _check_options(config, "data.name", OWN_DATA)
    _check_options(config, "train.outer_gradient", OUTER_DIRECTIONS)
    _check_all_classes(config)
    _check_splits(config)
    _check_annealing(config)
    _check_smoothing(config)
    _check_statistics(config)
    _check_image_size(config)
    _check_divisibility(config)


def parse_fractions(text: str) -> tuple[float, ...]:
    """Reads `data.split_fractions`, such as "0.64,0.16,0.2"; "" gives what is usual."""
    check_value("data.split_fractions", text)
    return tuple(float(part) for part in (text or rules.AUTOMATIC_FRACTIONS).split(","))


def check_values(config: ConfigDict) -> None:
    """Checks types and values of the fields, each by itself."""
    for name, value in flatten(config):
        check_value(name, value)


def check_types(config: ConfigDict | dict[str, Any]) -> None:
    """Checks that there is a value of the right type for every field, and nothing else."""
    given = dict(flatten(config))
    for name in given:
        check_field(name)
    for name, field in FIELDS.items():
        if name not in given:
            raise ConfigError(f"config.{name} is missing; its default is {field.default!r}.")
        _check_type(name, given[name])


def check_value(name: str, value: Any, called: str = "") -> None:
    """Checks the value of one field by itself; an error calls it `called`, or "config." and the name."""
    _check_type(name, value, called)
    rule = FIELDS[name].rule
    if not rule.allows(value):
        raise ConfigError(f"{called or f'config.{name}'} is {value!r}; {rule.text}.")


def _check_type(name: str, value: Any, called: str = "") -> None:
    value_type = type(FIELDS[name].default)
    if value_type is float and isinstance(value, int) and abs(value) <= rules.MAX_INT:
        value_type = int  # A float may be written without a fraction.
    if not isinstance(value, value_type) or isinstance(value, bool) != (value_type is bool):
        expected = type(FIELDS[name].default).__name__
        raise ConfigError(
            f"{called or f'config.{name}'} is {value!r}; it must be of type {expected}."
        )


def _check_options(config: ConfigDict, chooser: str, parts: PartTable[Any]) -> None:
    """Checks that no field is set that the chosen part, of `parts` by the field `chooser`, does not take."""
    values = dict(flatten(config))
    chosen = values[chooser]
    taken = parts[chosen].options if chosen in parts or is_own(chosen) else {}
    known = {**parts, "a part of your own (module:attribute)": parts.own}
    for field in {field: None for part in known.values() for field in part.options}:
        value, default = values[field], FIELDS[field].default
        if value != default and field not in taken:
            takers = [name for name, part in known.items() if field in part.options]
            raise ConfigError(
                f"config.{field} is {value!r}, which {chosen!r}, the choice of config.{chooser}, does not take; leave "
                f"it {default!r}, or choose {' or '.join(takers)}."
            )


def _check_splits(config: ConfigDict) -> None:
    data = config.data
    counts = ("train_classes", "val_classes", "test_classes")
    decided = [f"data.{name}" for name in ("split_file", *counts) if data[name]]
    if data.split_fractions and decided:
        raise ConfigError(
            f"config.data.split_fractions is {data.split_fractions!r}, but {', '.join(decided)} says which "
            "classes a split has; leave one of them empty (numbers of classes: 0)."
        )


def _check_annealing(config: ConfigDict) -> None:
    train = config.train
    if train.cosine_annealing and train.final_learning_rate > train.learning_rate:
        raise ConfigError(
            f"config.train.final_learning_rate is {train.final_learning_rate}; annealing goes down, so it "
            f"must be at most config.train.learning_rate={train.learning_rate}."
        )


def _check_all_classes(config: ConfigDict) -> None:
    gradient = config.train.outer_gradient
    if OUTER_DIRECTIONS[gradient].all_classes and not config.data.train_classes:
        raise ConfigError(
            f"config.data.train_classes is 0, but {gradient!r}, the choice of config.train.outer_gradient, needs an "
            "output for each; give their number, such as 64 of mini_imagenet."
        )


def _check_smoothing(config: ConfigDict) -> None:
    train = config.train
    if train.label_smoothing and not OUTER_DIRECTIONS[train.outer_gradient].of_query_loss:
        raise ConfigError(
            f"config.train.label_smoothing is {train.label_smoothing}, but {train.outer_gradient!r}, the choice of "
            "config.train.outer_gradient, has no query loss to smooth; use 0, or another method."
        )


def _check_statistics(config: ConfigDict) -> None:
    norm, averaged = config.norm, bool(config.train.average_decay)
    check_usable(
        norm.train_statistics, norm.train_statistics, averaged, "config.norm.train_statistics"
    )
    for mode in parse_list(norm.eval_statistics):
        check_usable(mode, norm.train_statistics, averaged, "config.norm.eval_statistics")


def _check_image_size(config: ConfigDict) -> None:
    if is_own(config.data.name):
        return  # perhaps no images
    size, model = config.data.image_size, config.model
    smallest = BACKBONES[model.name].smallest_image(model)
    if size < smallest:
        raise ConfigError(
            f"config.data.image_size is {size}; {model.name} needs at least {smallest} pixels. Use larger images, or "
            "another config.model.name."
        )


def _check_divisibility(config: ConfigDict) -> None:
    tasks, compute = config.train.tasks_per_step, config.compute
    if compute.devices and tasks % compute.devices:
        raise ConfigError(
            f"config.train.tasks_per_step is {tasks}, which does not divide over "
            f"config.compute.devices={compute.devices}; use a divisor of {tasks}, or 0 for automatic."
        )
    # The automatic number of devices is not known yet, but chunks must divide all tasks in any case.
    check_chunk(config, compute.devices or 1)
    dispatch = compute.steps_per_dispatch
    if dispatch and config.train.steps_per_epoch % dispatch:
        raise ConfigError(
            f"config.compute.steps_per_dispatch is {dispatch}; it must divide "
            f"config.train.steps_per_epoch={config.train.steps_per_epoch}."
        )


def check_chunk(config: ConfigDict, devices: int) -> None:
    """Checks that the tasks of each of so many devices divide into chunks."""
    tasks, chunk = config.train.tasks_per_step, config.compute.tasks_per_chunk
    if chunk and (tasks // devices) % chunk:
        raise ConfigError(
            f"config.compute.tasks_per_chunk is {chunk}; it must divide the {tasks // devices} tasks "
            f"per device (config.train.tasks_per_step={tasks} over {devices} device(s))."
        )


def check_channels(config: ConfigDict, channels: int) -> None:
    """Checks that the images have the channels that the configuration requires."""
    data = config.data
    if data.channels not in (0, channels):
        raise ConfigError(
            f"config.data.channels is {data.channels}, but {data.name} has images of {channels}; use 0."
        )
    if data.normalize in _FOR_COLOUR and channels != 3:
        raise ConfigError(
            f"config.data.normalize is {data.normalize!r}, which is for colour, but {data.name} has grey "
            "images; use none."
        )


def check_classes(config: ConfigDict, split: str, num_classes: int, in_all: int) -> None:
    """Checks that a split of so many classes, rotated ones counted, has enough; `in_all` are those of the data set."""
    way = config.task.way
    if way > num_classes:
        raise ConfigError(
            f"config.task.way is {way}, but the {split} split of {config.data.name} has {num_classes} classes; use "
            f"at most {num_classes}, or {_more_classes(config, split)}."
            + (FEW_CLASSES if in_all < _FEW else "")
        )


def check_class_sizes(config: ConfigDict, sizes: Mapping[str, int]) -> None:
    """Checks that every class, its images given by its name, has enough of them for a task; names all that do not."""
    shot, query = config.task.shot, config.task.query
    small = [f"{name!r} ({size})" for name, size in sizes.items() if size < shot + query]
    if small:
        least = min(sizes.values())
        most = f"Together they may be at most {least}, or g" if least > 1 else "G"
        raise ConfigError(
            f"config.task.shot + config.task.query is {shot} + {query} = {shot + query}, but {len(small)} of "
            f"{len(sizes)} classes of {config.data.name} have fewer images: {', '.join(small)}. {most}ive them more "
            f"images, or leave them out by config.data.smallest_class={shot + query}."
        )


def _more_classes(config: ConfigDict, split: str) -> str:
    """Advice that gives a split more classes."""
    data, ways = config.data, []
    if data.split_file:
        ways.append(f"list more {split} classes in config.data.split_file")
    elif data.train_classes or data.val_classes or data.test_classes:
        ways.append(f"raise config.data.{split}_classes")
    elif data.split_fractions:
        ways.append(
            f"raise the share of {split} in config.data.split_fractions, or leave it empty to have shares chosen"
        )
    else:
        ways.append("add classes")
    if not data.rotations:
        ways.append("count every rotation of a class as a class by config.data.rotations=True")
    elif split != "train" and not data.rotate_evaluation:
        ways.append("count rotations here too by config.data.rotate_evaluation=True")
    return ", or ".join(ways)
