"""Every field of a configuration: its default, its meaning and its allowed values.

The defaults are MAML++ on Omniglot 5-way 1-shot, by the paper's protocol. Where the authors' released code
differs from the paper, the field says so. On the command line, "train.epochs" is `--config.train.epochs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mamlpp_jax.config import rules
from mamlpp_jax.config.parts import (
    ADAPTS,
    BACKBONES,
    INIT_THETA,
    INNER_LOSSES,
    INNER_OPTIMIZERS,
    OUTER_DIRECTIONS,
)
from mamlpp_jax.config.protocols import PROTOCOLS
from mamlpp_jax.config.rules import Rule, one_of, part_of, some_of, whole
from mamlpp_jax.statistics import STATISTICS


class Field(NamedTuple):
    """One field."""

    default: bool | int | float | str  # its value in `default_config`, which also fixes its type
    text: str  # its meaning
    rule: Rule = rules.ANY  # the values it may have, as far as they need no data and devices
    resumable: bool = False  # a run may be continued with another value: results stay the same
    # Values of earlier versions. A stored configuration that has one is read with the default in its place.
    removed: tuple[str, ...] = ()
    added: bool = False  # after there were runs, whose hashes leave it out at its default


# A line per field. Upper limits far above any use keep a typo from filling the memory.
# fmt: off
FIELDS: dict[str, Field] = {
    "experiment": Field("omniglot", "what results are filed under", rules.FOLDER_NAME),
    "method": Field(
        "maml++", "label of the run; the configuration's argument method=... sets the components' fields to it"
    ),
    "protocol": Field("none", "label of what the configuration's argument protocol=... sets", one_of(PROTOCOLS)),
    "seed": Field(0, "initial weights and training tasks", rules.SEED),

    "data.name": Field(
        "omniglot", "a data source: glyphs, omniglot, mini_imagenet, image_folder (own images), tfds:<name> ..."
    ),
    "data.options": Field("{}", "arguments of an own data source", rules.OPTIONS, added=True),
    "data.seed": Field(0, "class split and evaluation tasks; the same for every `seed`", rules.SEED),
    "data.image_size": Field(28, "height and width in pixels", whole(1, 1024)),
    "data.channels": Field(0, "1 grey, 3 colour; 0 = as the images are (own images, TFDS data sets)", rules.CHANNELS),
    "data.normalize": Field("none", "pixels in 0..1, or ImageNet's mean and deviation", one_of(("none", "imagenet"))),
    "data.rotations": Field(True, "every 90-degree rotation of a class is a class"),
    "data.augment": Field(False, "supervised stage: random crops, flips and colours of training images", added=True),
    "data.rotate_evaluation": Field(
        True, "rotations are classes in validation and test too (released code: in training only)"
    ),
    "data.train_classes": Field(
        1150,
        "training classes before rotation; 0 takes all of a published split, three zeros divide by fractions",
        whole(0),
    ),
    "data.val_classes": Field(50, "validation classes, as data.train_classes", whole(0)),
    "data.test_classes": Field(423, "test classes, as data.train_classes", whole(0)),
    "data.split_fractions": Field(
        "",
        "shares of the classes, such as 0.64,0.16,0.2; empty = these, but `way` classes in each split",
        rules.FRACTIONS,
    ),
    "data.split_file": Field("", "CSV with the header class,split; empty = the rules above", rules.FOLDER),
    "data.smallest_class": Field(1, "classes with fewer images are left out", whole(1), added=True),
    "data.tfds_dir": Field("", "root of prepared TFDS data sets", rules.FOLDER, resumable=True),
    "data.manual_dir": Field("", "folder of archives or images; empty = download them", rules.FOLDER, resumable=True),
    "data.cache_dir": Field(
        "", "where prepared data go; empty = the user's cache folder", rules.FOLDER, resumable=True
    ),
    "data.device_limit_mib": Field(
        8192,
        "MiB of images kept on a device; larger data stay on the host, with the same tasks",
        whole(0), resumable=True,
    ),

    "task.way": Field(5, "classes of a task", whole(2)),
    "task.shot": Field(1, "support images per class", whole(1)),
    "task.query": Field(1, "query images per class", whole(1)),

    "model.name": Field("conv4", "backbone: four convolutional blocks, or residual ones", part_of(BACKBONES)),
    "model.options": Field("{}", "further arguments of an own backbone", rules.OPTIONS, added=True),
    "model.filters": Field(
        64, "filters of each block (resnet12: 64 for 64-160-320-640, 16 for 16-32-64-128)", whole(1)
    ),
    "model.max_pool": Field(True, "max pooling; False (conv4): stride-2 convolutions and global average pooling"),
    "model.normalize_features": Field(
        False, "resnet12: each image's features at mean 0 and variance 1 before the head", added=True
    ),
    "model.shared_head": Field(False, "one head vector for all classes, for any number of ways"),
    "model.conv": Field(
        "auto",
        "how convolutions are computed, see mamlpp_jax.ops.conv: speed and memory, not results",
        one_of(("auto", "xla", "patches", "direct", "grouped")), resumable=True, removed=("shifted", "pallas"),
    ),
    "model.dtype": Field(
        "float32", "dtype of factors in convolutions; the rest is float32", one_of(("float32", "bfloat16"))
    ),

    "norm.per_step_statistics": Field(True, "BNRS: running statistics per inner step"),
    "norm.running_decay": Field(
        0.9,
        "what running statistics keep of themselves at each update; 1 leaves those of train.start_from as they are",
        rules.SHARE, added=True,
    ),
    "norm.per_step_affine": Field(True, "BNWB: scale and bias per inner step"),
    "norm.train_statistics": Field("batch", "what normalises in training", one_of(STATISTICS)),
    "norm.eval_statistics": Field(
        "batch", "what normalises in validation and test; the first selects epochs", some_of(STATISTICS)
    ),
    "norm.hand_over": Field(
        0.0,
        "annealed statistics: share of the epochs that lead to the running ones; 0 = these from the start",
        rules.SHARE,
    ),

    "inner.optimizer": Field(
        "lslr",
        "one fixed rate, perhaps along learned matrices, or learned ones: per tensor and step, per weight, generated",
        part_of(INNER_OPTIMIZERS),
    ),
    "inner.options": Field("{}", "further arguments of an own inner optimizer", rules.OPTIONS, added=True),
    "inner.loss": Field("cross_entropy", "loss of the inner loop, perhaps learned", part_of(INNER_LOSSES), added=True),
    "inner.loss_options": Field("{}", "arguments of an own inner loss", rules.OPTIONS, added=True),
    "inner.learning_rate": Field(0.1, "inner rate: fixed, or where learned rates start", rules.POSITIVE),
    "inner.per_step": Field(False, "metasgd, metacurvature: rates or matrices of each step"),
    "inner.init_theta": Field(
        "learned",
        "where the inner loop starts: learned weights, or a head of class prototypes",
        part_of(INIT_THETA), added=True,
    ),
    "inner.adapts": Field("all", "what the inner loop changes: ANIL head, BOIL body, CAVIA context", one_of(ADAPTS)),

    "train.epochs": Field(150, "epochs of the run, each with a validation at its end (released code: 100)", whole(1)),
    "train.steps_per_epoch": Field(500, "outer steps of an epoch", whole(1)),
    "train.tasks_per_step": Field(
        16, "the meta-batch, tasks of an outer step: its batch size (released code: 8)", whole(1, 2**20)
    ),
    "train.inner_steps": Field(5, "inner steps, S", whole(1, 10_000)),
    "train.first_order_epochs": Field(50, "DA: first order before this epoch; 0 = off (released code: off)", whole(0)),
    "train.multi_step_epochs": Field(10, "MSL: annealed over these epochs, then the last loss; 0 = off", whole(0)),
    "train.cosine_annealing": Field(True, "CA: the outer rate falls along a cosine"),
    "train.cosine_per": Field(
        "step", "how long an annealed rate is held (released code: epoch)", one_of(("step", "epoch"))
    ),
    "train.outer_gradient": Field(
        "maml", "outer gradient: of the query loss, or theta_0 - theta_S", part_of(OUTER_DIRECTIONS)
    ),
    "train.images_per_task": Field(32, "supervised stage: images that are normalised together", whole(1), added=True),
    "train.start_from": Field(
        "",
        "a run, an archived run, a saved or a shipped model to take weights from; empty = start anew",
        rules.FOLDER, resumable=True, added=True,
    ),
    "train.learning_rate": Field(1e-3, "rate of outer Adam", rules.POSITIVE),
    "train.final_learning_rate": Field(1e-5, "outer rate where CA ends", rules.POSITIVE),
    "train.adam_b1": Field(0.9, "decay of outer Adam's mean of gradients", rules.DECAY),
    "train.adam_b2": Field(0.99, "decay of its mean of squares (released code: 0.999)", rules.DECAY),
    "train.label_smoothing": Field(0.0, "label smoothing of the query loss; 0 = off", rules.DECAY),
    "train.average_decay": Field(0.0, "test a moving average of the meta-parameters; 0 = the last ones", rules.DECAY),
    "train.clip_norm": Field(0.0, "global L2 norm the meta-gradient is scaled down to; 0 = off", rules.CLIP),
    "train.clip_value": Field(
        0.0, "largest size of the meta-gradient's elements; 0 = off (released mini-ImageNet code: 10)", rules.CLIP
    ),

    "evaluation.tasks": Field(
        600, "tasks of each validation and of the test", whole(2, 2**20, ", for an interval over tasks")
    ),
    "evaluation.most_inner_steps": Field(
        0, "most inner steps tried on validation tasks after training; 0 = as trained", whole(0, 10_000), resumable=True
    ),
    "evaluation.ensemble": Field(3, "best epochs whose logits are averaged (released code: 5)", whole(1)),

    "checkpoint.every_minutes": Field(
        10.0, "minutes between checkpoints, besides epochs' ends; 1 a minute at most", rules.POSITIVE, resumable=True
    ),

    "compute.devices": Field(
        0, "devices that share the meta-batch; 0 = as many as divide it", whole(0), resumable=True
    ),
    "compute.tasks_per_chunk": Field(0, "tasks computed together; 0 = 1 on CPU, else all", whole(0), resumable=True),
    "compute.remat": Field(
        False, "compute again instead of storing: less memory, more time, for many inner steps", resumable=True
    ),
    "compute.steps_per_dispatch": Field(0, "outer steps per compiled call; 0 = automatic", whole(0), resumable=True),

    "log.every_seconds": Field(
        30.0, "seconds between progress lines without a terminal", rules.POSITIVE, resumable=True
    ),
    "log.tensorboard": Field(True, "write TensorBoard events too", resumable=True),
}
# fmt: on


def default_config() -> ConfigDict:
    """A new configuration with the default of every field: MAML++ on Omniglot 5-way 1-shot.

    Example:
        >>> maml.default_config().train.epochs
        150
    """
    return nested({name: field.default for name, field in FIELDS.items()})


def nested(values: Mapping[str, Any]) -> ConfigDict:
    """A configuration of values by full name, such as "train.epochs"."""
    sections: dict[str, Any] = {}
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        (sections.setdefault(section, {}) if section else sections)[key] = value
    return ConfigDict(sections)


def flatten(config: ConfigDict | Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("train.epochs", 150) for every field."""
    for key, value in config.items():
        if isinstance(value, (ConfigDict, Mapping)) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
