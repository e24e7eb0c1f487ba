"""Protocols: how long, and with which settings beside the method, an experiment is trained and tested.

A protocol is a row of values that replace the defaults of `fields`, which are the paper's. A configuration file
applies the protocol first and the method after it:

    apply_protocol(config, "released")
    apply_method(config, "maml")

The protocol is a label, as the method is: `--config.train.epochs=1` shortens a run without renaming it, so results
carry their whole configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mamlpp_jax.errors import ConfigError


class Protocol(NamedTuple):
    """The fields that a protocol sets."""

    fields: Mapping[str, Any] = {}  # values for every data set
    by_data: Mapping[
        str, Mapping[str, Any]
    ] = {}  # by `data.name`, values that replace or join them
    always: frozenset[str] = frozenset()  # components that every method has, plain MAML too


# Raised, with a line in CHANGELOG.md, when the same configuration would give other numbers; results carry it.
PROTOCOL_VERSION = 1

PROTOCOLS: dict[str, Protocol] = {
    "none": Protocol(),  # fields are set one by one
    # Section 4 of the paper: the defaults, and what configs/mini_imagenet.py sets.
    "paper": Protocol(),
    # As the authors' published configurations run. Their JSON key for mini-ImageNet's first inner rate, 0.01, is
    # read nowhere: the code takes another one, whose default is 0.1.
    "released": Protocol(
        fields={
            "train.epochs": 100,
            "train.tasks_per_step": 8,
            "train.first_order_epochs": 0,
            "train.cosine_per": "epoch",
            "train.adam_b2": 0.999,
            "evaluation.ensemble": 5,
            "data.rotate_evaluation": False,
        },
        by_data={
            "mini_imagenet": {
                "train.tasks_per_step": 2,
                "train.final_learning_rate": 1e-3,  # the first rate: no annealing in effect
                "train.clip_value": 10.0,  # of learned inner rates too, which the released code leaves as they are
                "inner.learning_rate": 0.1,
            }
        },
        always=frozenset({"ca"}),
    ),
    # The paper's, shortened from 150 to 10 epochs with all its annealing.
    "short": Protocol(
        fields={
            "train.epochs": 10,
            "train.tasks_per_step": 8,
            "train.first_order_epochs": 3,
            "train.multi_step_epochs": 1,
        },
        by_data={"mini_imagenet": {"train.tasks_per_step": 2}},
    ),
    # The paper's at the size that two CPU cores can train mini-ImageNet by: 60 epochs of 2 tasks.
    "compact": Protocol(
        fields={
            "train.epochs": 60,
            "train.tasks_per_step": 2,
            "train.first_order_epochs": 20,
            "train.multi_step_epochs": 5,
        },
    ),
}


def apply_protocol(config: ConfigDict, name: str) -> None:
    """Sets `config.protocol` and, in place, the fields of the protocol; `data.name` must be set before."""
    if name not in PROTOCOLS:
        raise ConfigError(f"config.protocol is {name!r}; choose one of {', '.join(PROTOCOLS)}.")
    fields, by_data, _ = PROTOCOLS[name]
    config.update_from_flattened_dict(
        {"protocol": name, **fields, **by_data.get(config.data.name, {})}
    )
