"""Configuration: every field with its default, the methods of the paper, and validation.

A configuration file calls `default_config`, changes what its experiment needs and picks a method:

    config = default_config()
    config.task.way = 20
    apply_method(config, "maml++")
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from mamlpp_jax.algorithms.inner_optimizers import INNER_OPTIMIZERS
from mamlpp_jax.algorithms.learner import BN_MODES as STATISTICS
from mamlpp_jax.data.episodes import NORMALIZATIONS
from mamlpp_jax.data.splits import parse_fractions
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.ops.conv import KINDS as CONV_KINDS

_DTYPES = ("float32", "bfloat16")
COMPONENTS = ("msl", "da", "bnrs", "bnwb", "lslr", "ca")
# Fields a workdir may be resumed with other values of: they do not change what is computed.
RESUMABLE = (
    "compute",
    "log",
    "checkpoint",
    "data.tfds_dir",
    "data.manual_dir",
    "data.cache_dir",
    "data.device_limit_mib",
)
_OWN_IMAGES = "image_folder"


def default_config() -> ConfigDict:
    """The defaults: MAML++ on Omniglot 5-way 1-shot, by the paper's protocol.

    Where the authors' released code differs from the paper, the field says so.
    """
    config = ConfigDict()
    config.experiment = "omniglot"  # what results are filed under
    config.method = "maml++"  # the label of the run; `apply_method` sets the switches to it
    config.seed = 0  # initial weights and training tasks

    config.data = data = ConfigDict()
    data.name = "omniglot"  # a data source, see mamlpp_jax.data.sources.registry
    data.seed = 0  # class split and evaluation tasks; the same for every `seed`
    data.image_size = 28  # height and width in pixels
    data.channels = 0  # 1 grey, 3 colour; 0 = as the pictures are (own images and TFDS data sets)
    data.normalize = "none"  # none: pixels in 0..1; imagenet: ImageNet's channel mean and deviation
    data.rotations = True  # every quarter turn of a class is a class (released code: training only)
    data.train_classes = 1150  # before rotation, as the two below; 0 = all of a published split, or
    data.val_classes = 50  # a fraction of the classes
    data.test_classes = 423
    data.split_fractions = "0.64,0.16,0.2"  # of classes without a published split
    data.split_file = ""  # CSV with the header "class,split"; "" = the rules above
    data.tfds_dir = ""  # root of prepared TFDS data sets; "" = prepare our own
    data.manual_dir = ""  # folder with the raw archives or pictures; "" = download them
    data.cache_dir = ""  # where prepared data go; "" = the user's cache folder
    data.device_limit_mib = 8192  # larger data stay on the host, which assembles the same tasks

    config.task = task = ConfigDict()
    task.way = 5  # classes of a task
    task.shot = 1  # support images per class
    task.query = 1  # query images per class

    config.model = model = ConfigDict()
    model.name = "conv4"  # a backbone, see mamlpp_jax.models.registry
    model.filters = 64  # of each of the four blocks
    model.max_pool = True  # False: stride-2 convolutions and global average pooling
    model.conv = "auto"  # auto | xla | patches | direct (mamlpp_jax.ops.conv)
    model.dtype = "float32"  # or bfloat16: factors of the convolutions; sums and the rest float32

    config.norm = norm = ConfigDict()
    norm.per_step_statistics = True  # BNRS: running statistics per inner step
    norm.per_step_affine = True  # BNWB: scale and bias per inner step
    norm.train_statistics = "batch"  # batch | running | support: what normalises in training
    norm.eval_statistics = (
        "batch"  # one or several, "batch,support,running"; the first selects epochs
    )

    config.inner = inner = ConfigDict()
    inner.optimizer = "lslr"  # lslr: learned per-tensor per-step rates; sgd: one fixed rate
    inner.learning_rate = 0.1  # fixed, or where learned rates start

    config.train = train = ConfigDict()
    train.epochs = 150  # released code: 100
    train.steps_per_epoch = 500  # outer steps
    train.tasks_per_step = 16  # the meta-batch (released code: 8)
    train.inner_steps = 5
    train.first_order_epochs = 50  # DA: first order before this epoch; 0 = off (released code: off)
    train.multi_step_epochs = (
        10  # MSL: annealed over these epochs, then the last loss only; 0 = off
    )
    train.cosine_annealing = True  # CA, per outer step (released code: per epoch)
    train.learning_rate = 1e-3  # outer Adam
    train.final_learning_rate = 1e-5  # where CA ends
    train.adam_b1 = 0.9
    train.adam_b2 = 0.99  # released code: 0.999
    train.clip_norm = 0.0  # global L2 norm the meta-gradient is scaled down to; 0 = off
    train.clip_value = 0.0  # its elements' largest size; 0 = off (released mini-ImageNet code: 10)

    config.evaluation = evaluation = ConfigDict()
    evaluation.tasks = 600  # fixed tasks, of validation and of the test alike
    evaluation.ensemble = 3  # best epochs whose logits are averaged (released code: 5)

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_minutes = 10.0  # besides epochs' ends, at most one a minute

    config.compute = compute = ConfigDict()
    compute.devices = 0  # tasks are sharded over these; 0 = as many as divide the meta-batch
    compute.tasks_per_chunk = 0  # tasks computed together on a device; 0 = 1 on CPU, else all
    compute.remat = False  # less memory, more time: for many inner steps
    compute.steps_per_dispatch = 0  # outer steps per call of the compiled function; 0 = automatic

    config.log = log = ConfigDict()
    log.every_seconds = 30.0  # between progress lines where there is no terminal
    log.tensorboard = True  # write TensorBoard events too
    return config


def parse_method(method: str) -> frozenset[str]:
    """The components of a method: "maml", "maml++" or "maml+" and components joined by "+".

    Raises:
        ConfigError: the name does not parse; lists what does.
    """
    base, *components = method.split("+")
    if method == "maml++":
        return frozenset(COMPONENTS)
    if base != "maml" or not set(components) <= set(COMPONENTS):
        raise ConfigError(
            f"method is {method!r}; it must be maml, maml++ or maml followed by components, such as "
            f"maml+msl or maml+bnrs+bnwb. Components: {', '.join(COMPONENTS)}."
        )
    return frozenset(components)


def apply_method(config: ConfigDict, method: str) -> None:
    """Turns off, in place, every component of MAML++ that `method` does not name.

    Raises:
        ConfigError: the method is unknown.
    """
    on = parse_method(method)
    config.method = method
    config.train.multi_step_epochs *= "msl" in on
    config.train.first_order_epochs *= "da" in on
    config.norm.per_step_statistics = "bnrs" in on
    config.norm.per_step_affine = "bnwb" in on
    config.inner.optimizer = "lslr" if "lslr" in on else "sgd"
    config.train.cosine_annealing = "ca" in on


def parse_argument(argument: str | None, defaults: dict[str, Any]) -> dict[str, Any]:
    """Reads the string after ``--config=file.py:``, for example "way=20,shot=1,method=maml".

    Args:
        argument: "key=value" pairs joined by commas; None or "" for the defaults.
        defaults: the allowed keys; values are converted to the types of the defaults.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    result = dict(defaults)
    for pair in filter(None, (argument or "").split(",")):
        key, _, text = (part.strip() for part in pair.partition("="))
        if key not in defaults:
            raise ConfigError(
                f"the configuration file has no argument {key!r}{_suggest(key, defaults)}; "
                f"it takes {', '.join(f'{k}={v}' for k, v in defaults.items())}."
            )
        kind = type(defaults[key])
        try:
            result[key] = kind(text)
        except ValueError as error:
            raise ConfigError(
                f"argument {key}={text!r} must be of type {kind.__name__}."
            ) from error
    return result


def eval_statistics(config: ConfigDict) -> tuple[str, ...]:
    """The statistics modes of evaluation; the first one selects the best epochs."""
    return tuple(part.strip() for part in config.norm.eval_statistics.split(","))


def data_label(config: ConfigDict) -> str:
    """What results call the data: the source, and of one's own images the folder."""
    data = config.data
    folder = pathlib.PurePath(data.manual_dir).name if data.name == _OWN_IMAGES else ""
    return f"{data.name}:{folder}" if folder else data.name


def total_steps(config: ConfigDict) -> int:
    """Outer steps of the whole run."""
    return config.train.epochs * config.train.steps_per_epoch


def flatten(config: ConfigDict | dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("train.epochs", 150) for every field."""
    for key, value in config.items():
        if isinstance(value, (ConfigDict, dict)) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(ours: ConfigDict, stored: dict[str, Any]) -> list[str]:
    """Fields whose change would change the run, as "train.epochs: 150 here, 100 there"."""
    here, there = _run_fields(ours), _run_fields(stored)
    return [
        f"{name}: {here.get(name, 'absent')!r} here, {there.get(name, 'absent')!r} there"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]


def with_default_compute(config: ConfigDict) -> ConfigDict:
    """A copy that leaves devices and chunks to the machine it runs on."""
    changed = copy.deepcopy(config)
    changed.compute = default_config().compute
    return changed


def config_hash(config: ConfigDict) -> str:
    """Eight hexadecimal digits that change with every field that changes the run."""
    return hashlib.sha256(json.dumps(_run_fields(config), sort_keys=True).encode()).hexdigest()[:8]


def _run_fields(config: ConfigDict | dict[str, Any]) -> dict[str, Any]:
    """The fields that change the run."""
    every = dict(flatten(config))
    fields = {name: value for name, value in every.items() if not _is_resumable(name)}
    if every.get("data.name") == _OWN_IMAGES:
        # Wherever the folder lies, its name tells one's data sets apart.
        fields["data.manual_dir"] = pathlib.PurePath(str(every.get("data.manual_dir", ""))).name
    return fields


def _is_resumable(name: str) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in RESUMABLE)


def from_dict(stored: dict[str, Any]) -> ConfigDict:
    """The configuration of a `config.json`, checked against the fields this version knows.

    Raises:
        ConfigError: a field is unknown, missing or out of range.
    """
    _check_names_and_types(stored)
    try:
        config = ConfigDict(stored)
    except ValueError as error:  # a field "train.epochs" instead of an object "train"
        raise ConfigError(f"the configuration is no nested object: {error}") from error
    validate(config)
    return config


def validate(config: ConfigDict) -> None:
    """Checks every field that can be judged without the data.

    Raises:
        ConfigError: names the field, its value and what is allowed.
    """
    _check_names_and_types(config)
    _check_method(config)
    _check_choices(config)
    _check_folders(config)
    _check_ranges(config)
    _check_divisibility(config)


def check_field(name: str) -> None:
    """Checks that a field such as "train.epochs" exists.

    Raises:
        ConfigError: it does not; suggests one that does.
    """
    _check_known(name, dict(flatten(default_config())))


def _check_known(name: str, known: dict[str, Any]) -> None:
    if name not in known:
        raise ConfigError(f"config.{name} is not a field{_suggest(name, known)}.")


def _check_names_and_types(config: ConfigDict | dict[str, Any]) -> None:
    known, given = dict(flatten(default_config())), dict(flatten(config))
    for name in given:
        _check_known(name, known)
    for name, default in known.items():
        if name not in given:
            raise ConfigError(f"config.{name} is missing; its default is {default!r}.")
        value = given[name]
        allowed = (int, float) if isinstance(default, float) else type(default)
        if (
            not isinstance(value, allowed)
            or isinstance(value, bool) != isinstance(default, bool)
            # Whole numbers have no largest; numbers with a fraction do.
            or (isinstance(default, float) and isinstance(value, int) and abs(value) > _LARGEST)
        ):
            raise ConfigError(
                f"config.{name} is {value!r}; it must be of type {type(default).__name__}."
            )


def _check_method(config: ConfigDict) -> None:
    """A method may be cut short (DA for no epochs), but has no component that its name leaves out."""
    named, train = parse_method(config.method), config.train
    switches = {
        "msl": ("train.multi_step_epochs", train.multi_step_epochs, 0),
        "da": ("train.first_order_epochs", train.first_order_epochs, 0),
        "bnrs": ("norm.per_step_statistics", config.norm.per_step_statistics, False),
        "bnwb": ("norm.per_step_affine", config.norm.per_step_affine, False),
        "lslr": ("inner.optimizer", config.inner.optimizer, "sgd"),
        "ca": ("train.cosine_annealing", train.cosine_annealing, False),
    }
    for component, (field, value, off) in switches.items():
        if component not in named and value != off:
            raise ConfigError(
                f"config.method is {config.method!r}, which leaves out {component}, but config.{field} is "
                f"{value!r}. The method is chosen by the argument of the configuration file "
                "(--config=FILE:method=maml), which sets every switch."
            )


def _check_choices(config: ConfigDict) -> None:
    choices = {
        "data.normalize": (config.data.normalize, tuple(NORMALIZATIONS)),
        "model.conv": (config.model.conv, CONV_KINDS),
        "model.dtype": (config.model.dtype, _DTYPES),
        "norm.train_statistics": (config.norm.train_statistics, STATISTICS),
        "inner.optimizer": (config.inner.optimizer, tuple(INNER_OPTIMIZERS)),
    }
    for mode in eval_statistics(config):
        choices[f"norm.eval_statistics ({config.norm.eval_statistics!r})"] = (mode, STATISTICS)
        _check_choice(choices)
    modes = eval_statistics(config)
    if len(set(modes)) != len(modes):
        raise ConfigError(f"config.norm.eval_statistics is {','.join(modes)!r}; it repeats a mode.")


def _check_folders(config: ConfigDict) -> None:
    for name in ("tfds_dir", "manual_dir", "cache_dir"):
        try:
            pathlib.Path(config.data[name]).expanduser()
        except RuntimeError as error:  # ~somebody/folder
            raise ConfigError(
                f"config.data.{name} is {config.data[name]!r}; no user of that name has a home folder here."
            ) from error


def _check_choice(choices: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ConfigError(f"config.{name} is {value!r}; choose one of {', '.join(allowed)}.")


_AT_LEAST_ONE = [
    "data.image_size",
    "task.way",
    "task.shot",
    "task.query",
    "model.filters",
    "train.epochs",
    "train.steps_per_epoch",
    "train.tasks_per_step",
    "train.inner_steps",
    "evaluation.tasks",
    "evaluation.ensemble",
]
_AT_LEAST_ZERO = [
    "seed",
    "data.seed",
    "data.train_classes",
    "data.val_classes",
    "data.test_classes",
    "data.device_limit_mib",
    "train.first_order_epochs",
    "train.multi_step_epochs",
    "compute.devices",
    "compute.tasks_per_chunk",
    "compute.steps_per_dispatch",
]
# Random keys take 32 bits of a seed; the others keep a slip of the keyboard from filling the memory.
_AT_MOST = {
    "seed": 2**32 - 1,
    "data.seed": 2**32 - 1,
    "data.image_size": 1024,
    "train.tasks_per_step": 2**20,
    "evaluation.tasks": 2**20,
    "train.inner_steps": 10_000,
}
_POSITIVE = [
    "inner.learning_rate",
    "train.learning_rate",
    "train.final_learning_rate",
    "checkpoint.every_minutes",
    "log.every_seconds",
]
_LARGEST = 2**31 - 1  # of every other whole number
_HALVINGS = 4


def _check_ranges(config: ConfigDict) -> None:
    fields = dict(flatten(config))
    for names, low, text in (
        (_AT_LEAST_ONE, 1, "1 or more"),
        (_AT_LEAST_ZERO, 0, "0 or more"),
        (("task.way",), 2, "2 or more"),
        (("evaluation.tasks",), 2, "2 or more, for an interval over tasks"),
    ):
        for name in names:
            if fields[name] < low:
                raise ConfigError(f"config.{name} is {fields[name]}; it must be {text}.")
    for name in (*_AT_LEAST_ONE, *_AT_LEAST_ZERO):
        high = _AT_MOST.get(name, _LARGEST)
        if fields[name] > high:
            raise ConfigError(f"config.{name} is {fields[name]}; it must be at most {high}.")
    for name in _POSITIVE:
        if not (fields[name] > 0 and math.isfinite(fields[name])):
            raise ConfigError(f"config.{name} is {fields[name]}; it must be a positive number.")
    for name in ("train.clip_norm", "train.clip_value"):
        if not (fields[name] >= 0 and math.isfinite(fields[name])):
            raise ConfigError(
                f"config.{name} is {fields[name]}; it must be a positive number, or 0 for no clipping."
            )
    for name in ("train.adam_b1", "train.adam_b2"):
        if not 0 <= fields[name] < 1:
            raise ConfigError(f"config.{name} is {fields[name]}; it must be in [0, 1).")
    parse_fractions(config.data.split_fractions)
    if config.data.channels not in (0, 1, 3):
        raise ConfigError(
            f"config.data.channels is {config.data.channels}; it must be 1 (grey), 3 (colour) or 0 (as the "
            "pictures are)."
        )
    if not re.fullmatch(r"[\w+-][\w.+-]*", config.experiment):
        raise ConfigError(
            f"config.experiment is {config.experiment!r}; it names folders, so it must be letters, digits "
            "and _ + - . only, and not begin with a dot."
        )
    train = config.train
    if train.cosine_annealing and train.final_learning_rate > train.learning_rate:
        raise ConfigError(
            f"config.train.final_learning_rate is {train.final_learning_rate}; annealing goes down, so it "
            f"must be at most config.train.learning_rate={train.learning_rate}."
        )
    if config.model.max_pool and config.data.image_size < 2**_HALVINGS:
        raise ConfigError(
            f"config.data.image_size is {config.data.image_size}; four 2x2 poolings need at least "
            f"{2**_HALVINGS} pixels."
        )


def _check_divisibility(config: ConfigDict) -> None:
    tasks, compute = config.train.tasks_per_step, config.compute
    if compute.devices and tasks % compute.devices:
        raise ConfigError(
            f"config.train.tasks_per_step is {tasks}, which does not divide over "
            f"config.compute.devices={compute.devices}; use a divisor of {tasks}, or 0 for automatic."
        )
    # How many devices "automatic" means is only known later; a divisor of the whole is needed anyway.
    check_chunk(config, compute.devices or 1)
    dispatch = compute.steps_per_dispatch
    if dispatch and config.train.steps_per_epoch % dispatch:
        raise ConfigError(
            f"config.compute.steps_per_dispatch is {dispatch}; it must divide "
            f"config.train.steps_per_epoch={config.train.steps_per_epoch}."
        )


def check_chunk(config: ConfigDict, devices: int) -> None:
    """Checks that the tasks of each of so many devices divide into chunks.

    Raises:
        ConfigError: they do not.
    """
    tasks, chunk = config.train.tasks_per_step, config.compute.tasks_per_chunk
    if chunk and (tasks // devices) % chunk:
        raise ConfigError(
            f"config.compute.tasks_per_chunk is {chunk}; it must divide the {tasks // devices} tasks "
            f"per device (config.train.tasks_per_step={tasks} over {devices} device(s))."
        )


def check_channels(config: ConfigDict, channels: int) -> None:
    """Checks that the pictures have the channels that were asked for.

    Args:
        config: gives channels and normalisation.
        channels: of the pictures.

    Raises:
        ConfigError: they do not.
    """
    data = config.data
    if data.channels not in (0, channels):
        raise ConfigError(
            f"config.data.channels is {data.channels}, but {data.name} has pictures of {channels}; use 0."
        )
    if len(NORMALIZATIONS[data.normalize][0]) not in (1, channels):
        raise ConfigError(
            f"config.data.normalize is {data.normalize!r}, which is for colour, but {data.name} has grey "
            "pictures; use none."
        )


def check_classes(config: ConfigDict, split: str, num_classes: int, smallest: int) -> None:
    """Checks that tasks can be drawn from a split.

    Args:
        config: gives way, shot and query.
        split: its name, for the message.
        num_classes: classes of the split, rotated ones counted.
        smallest: pictures of its smallest class.

    Raises:
        ConfigError: too few classes, or too few pictures in one.
    """
    task = config.task
    if task.way > num_classes:
        raise ConfigError(
            f"config.task.way is {task.way}, but the {split} split of {config.data.name} has "
            f"{num_classes} classes; use at most {num_classes}."
        )
    if task.shot + task.query > smallest:
        raise ConfigError(
            f"config.task.shot + config.task.query is {task.shot} + {task.query} = "
            f"{task.shot + task.query}, but the smallest class of the {split} split of "
            f"{config.data.name} has {smallest} images; together they may be at most {smallest}."
        )


def _suggest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
