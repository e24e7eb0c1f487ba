"""Every field of a configuration: its default, its allowed values and its meaning.

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
    rule: Rule = rules.ANY  # the values it may have, as far as they need no data and devices
    resumable: bool = False  # a run may be continued with another value: results stay the same
    # Values of earlier versions. A stored configuration that has one is read with the default in its place.
    removed: tuple[str, ...] = ()
    added: bool = False  # after there were runs, whose hashes leave it out at its default


# A line per field. Upper limits far above any use keep a typo from filling the memory.
# fmt: off
FIELDS: dict[str, Field] = {
    "experiment": Field("omniglot", rules.FOLDER_NAME),  # what results are filed under
    "method": Field("maml++"),  # the label of the run; `apply_method` sets the components' fields to it
    "protocol": Field("none", one_of(PROTOCOLS)),  # the label of what `apply_protocol` sets
    "seed": Field(0, rules.SEED),  # initial weights and training tasks

    "data.name": Field("omniglot"),  # a data source, see mamlpp_jax.data.sources.registry
    "data.options": Field("{}", rules.OPTIONS, added=True),  # arguments of an own data source
    "data.seed": Field(0, rules.SEED),  # class split and evaluation tasks; the same for every `seed`
    "data.image_size": Field(28, whole(1, 1024)),  # height and width in pixels
    "data.channels": Field(0, rules.CHANNELS),  # 1 grey, 3 colour; 0 = as the images are (own images, TFDS data sets)
    "data.normalize": Field("none", one_of(("none", "imagenet"))),  # pixels in 0..1, or ImageNet's mean and deviation
    "data.rotations": Field(True),  # every 90-degree rotation of a class is a class
    "data.augment": Field(False, added=True),  # supervised: random crops, flips and colours of training images
    "data.rotate_evaluation": Field(True),  # in validation and test too (released code: in training only)
    # Classes before rotation. 0 takes all of a published split; three zeros divide the others by fractions.
    "data.train_classes": Field(1150, whole(0)),
    "data.val_classes": Field(50, whole(0)),
    "data.test_classes": Field(423, whole(0)),
    "data.split_fractions": Field("", rules.FRACTIONS),  # such as 0.64,0.16,0.2; "" = these, but `way` classes each
    "data.split_file": Field("", rules.FOLDER),  # CSV with the header "class,split"; "" = the rules above
    "data.tfds_dir": Field("", rules.FOLDER, resumable=True),  # root of prepared TFDS data sets
    "data.manual_dir": Field("", rules.FOLDER, resumable=True),  # raw archives or images; "" = download them
    "data.cache_dir": Field("", rules.FOLDER, resumable=True),  # where prepared data go; "" = the user's cache folder
    "data.device_limit_mib": Field(8192, whole(0), resumable=True),  # larger data stay on the host; same tasks

    "task.way": Field(5, whole(2)),  # classes of a task
    "task.shot": Field(1, whole(1)),  # support images per class
    "task.query": Field(1, whole(1)),  # query images per class

    "model.name": Field("conv4", part_of(BACKBONES)),  # four convolutional blocks, or residual ones; own: module:attr
    "model.options": Field("{}", rules.OPTIONS, added=True),  # further arguments of an own backbone
    "model.filters": Field(64, whole(1)),  # of each block (resnet12: 64 for 64-160-320-640, 16 for 16-32-64-128)
    "model.max_pool": Field(True),  # False (conv4): stride-2 convolutions and global average pooling
    "model.shared_head": Field(False),  # one head vector for all classes, for any number of ways
    # How convolutions are computed, see mamlpp_jax.ops.conv: speed and memory, not results.
    "model.conv": Field(
        "auto",
        one_of(("auto", "xla", "patches", "direct", "grouped")),
        resumable=True,
        removed=("shifted", "pallas"),
    ),
    "model.dtype": Field("float32", one_of(("float32", "bfloat16"))),  # of factors in convolutions; the rest is float32

    "norm.per_step_statistics": Field(True),  # BNRS: running statistics per inner step
    "norm.per_step_affine": Field(True),  # BNWB: scale and bias per inner step
    "norm.train_statistics": Field("batch", one_of(STATISTICS)),  # what normalises in training
    "norm.eval_statistics": Field("batch", some_of(STATISTICS)),  # the first selects epochs

    # Annealed statistics: share of the epochs that lead to the running ones; 0 = these from the start
    "norm.hand_over": Field(0.0, rules.SHARE),

    # One fixed rate, or learned ones: per tensor and step, per weight, generated in every step.
    "inner.optimizer": Field("lslr", part_of(INNER_OPTIMIZERS)),
    "inner.options": Field("{}", rules.OPTIONS, added=True),  # further arguments of an own inner optimizer
    "inner.loss": Field("cross_entropy", part_of(INNER_LOSSES), added=True),  # of the support set
    "inner.loss_options": Field("{}", rules.OPTIONS, added=True),  # arguments of an own inner loss
    "inner.learning_rate": Field(0.1, rules.POSITIVE),  # fixed, or where learned rates start
    "inner.per_step": Field(False),  # metasgd: rates per weight and step
    "inner.adapts": Field("all", one_of(ADAPTS)),  # what the inner loop changes: ANIL head, BOIL body

    "train.epochs": Field(150, whole(1)),  # released code: 100
    "train.steps_per_epoch": Field(500, whole(1)),  # outer steps
    "train.tasks_per_step": Field(16, whole(1, 2**20)),  # the meta-batch (released code: 8)
    "train.inner_steps": Field(5, whole(1, 10_000)),
    "train.first_order_epochs": Field(50, whole(0)),  # DA: first order before this epoch; 0 = off (released code: off)
    "train.multi_step_epochs": Field(10, whole(0)),  # MSL: annealed over these epochs, then the last loss; 0 = off
    "train.cosine_annealing": Field(True),  # CA: the outer rate falls along a cosine
    "train.cosine_per": Field("step", one_of(("step", "epoch"))),  # how long a rate is held (released code: epoch)
    "train.outer_gradient": Field("maml", part_of(OUTER_DIRECTIONS)),  # of the query loss, or theta_0 - theta_S
    "train.batch_size": Field(32, whole(1), added=True),  # supervised: images of each of the batches of a step
    # A run, an archived run or a saved model to take weights from; "" = start anew. Its weights tell runs apart.
    "train.start_from": Field("", rules.FOLDER, resumable=True, added=True),
    "train.learning_rate": Field(1e-3, rules.POSITIVE),  # outer Adam
    "train.final_learning_rate": Field(1e-5, rules.POSITIVE),  # where CA ends
    "train.adam_b1": Field(0.9, rules.DECAY),
    "train.adam_b2": Field(0.99, rules.DECAY),  # released code: 0.999
    "train.label_smoothing": Field(0.0, rules.DECAY),  # of the query loss; 0 = off
    "train.average_decay": Field(0.0, rules.DECAY),  # test a moving average of the meta-parameters; 0 = the last ones
    "train.clip_norm": Field(0.0, rules.CLIP),  # global L2 norm the meta-gradient is scaled down to; 0 = off
    "train.clip_value": Field(0.0, rules.CLIP),  # its elements' largest size; 0 = off (released mini-ImageNet code: 10)

    "evaluation.tasks": Field(600, whole(2, 2**20, ", for an interval over tasks")),  # each of validation and test
    "evaluation.ensemble": Field(3, whole(1)),  # best epochs whose logits are averaged (released code: 5)

    "checkpoint.every_minutes": Field(10.0, rules.POSITIVE, resumable=True),  # besides epochs' ends; 1 a minute at most

    "compute.devices": Field(0, whole(0), resumable=True),  # share the meta-batch; 0 = as many as divide it
    "compute.tasks_per_chunk": Field(0, whole(0), resumable=True),  # tasks computed together; 0 = 1 on CPU, else all
    "compute.remat": Field(False, resumable=True),  # less memory, more time: for many inner steps
    "compute.steps_per_dispatch": Field(0, whole(0), resumable=True),  # outer steps per compiled call; 0 = automatic

    "log.every_seconds": Field(30.0, rules.POSITIVE, resumable=True),  # between progress lines without a terminal
    "log.tensorboard": Field(True, resumable=True),  # write TensorBoard events too
}
# fmt: on


def default_config() -> ConfigDict:
    """A new configuration with the default of every field: MAML++ on Omniglot 5-way 1-shot."""
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
