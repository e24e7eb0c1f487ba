"""Methods and their components: rows of Table 1 of the paper, the other methods of the family, and combinations.

A component is a field with a value that turns it off, and carries what it excludes, a description and its source. A
method is a set of components. Both are tables, so that a new one is a new row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mamlpp_jax.config.fields import FIELDS, flatten
from mamlpp_jax.config.protocols import PROTOCOLS
from mamlpp_jax.errors import ConfigError


class Component(NamedTuple):
    """A part of a method that can be switched alone."""

    field: str  # the field that switches it
    off: Any  # the field's value without it
    on: Any = None  # the field's value with it; None where the configuration chooses, as of epochs
    also: Mapping[str, Any] = {}  # further fields that `apply_method` sets and that may be changed
    # Names of components that it cannot stand beside, with the reason; those of its own field need no mention.
    excludes: Mapping[str, str] = {}
    text: str = ""  # description in one line
    cite: str = ""  # source


_ALWAYS = 10**6  # epochs, more than any run has
_HOW_TO_TRAIN = 'Antoniou, Edwards, Storkey, "How to train your MAML", ICLR 2019, section 4'
_NO_SECOND_ORDER = "Reptile has no query loss and no second order"
_NO_RATES = "Reptile has no query loss to learn inner rates from"
_NO_LOSS = "Reptile has no query loss to learn an inner loss from"
_NOTHING_ADAPTED = "a supervised stage adapts nothing"
_HEAD_OF_PROTOTYPES = "Proto-MAML makes the head of prototypes"
_AS_MANY_OUTPUTS = "MeTAL's loss reads as many outputs as it was trained with"
_LEARNED_LOSS = {
    "fomaml": "first order stops the gradient that teaches MeTAL's loss",
    "sharedhead": _AS_MANY_OUTPUTS,
    "protomaml": _AS_MANY_OUTPUTS,
}
_METAL = (
    'Baik, Choi, Kim, Cho, Min, Lee, "Meta-Learning with Task-Adaptive Loss Function for Few-Shot Learning", '
    "ICCV 2021"
)
_INNER_LOOP_ALONE = "Reptile learns only what its inner loop changes"

COMPONENTS: dict[str, Component] = {
    "msl": Component(
        "train.multi_step_epochs",
        off=0,
        text="multi-step loss: at first the query loss after every inner step counts",
        cite=_HOW_TO_TRAIN,
    ),
    "da": Component(
        "train.first_order_epochs",
        off=0,
        text="derivative-order annealing: first order in the first epochs",
        cite=_HOW_TO_TRAIN,
    ),
    "bnrs": Component(
        "norm.per_step_statistics",
        off=False,
        on=True,
        text="running batch-norm statistics per inner step",
        cite=_HOW_TO_TRAIN,
    ),
    "bnwb": Component(
        "norm.per_step_affine",
        off=False,
        on=True,
        text="batch-norm scale and bias per inner step",
        cite=_HOW_TO_TRAIN,
    ),
    "lslr": Component(
        "inner.optimizer",
        off="sgd",
        on="lslr",
        text="a learned inner rate per parameter tensor and step",
        cite=_HOW_TO_TRAIN,
    ),
    "ca": Component(
        "train.cosine_annealing",
        off=False,
        on=True,
        text="cosine annealing of the outer rate",
        cite=_HOW_TO_TRAIN,
    ),
    "fomaml": Component(
        "train.first_order_epochs",
        off=0,
        on=_ALWAYS,
        text="first order throughout",
        cite='Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017, '
        "section 5.2",
    ),
    "anil": Component(
        "inner.adapts",
        off="all",
        on="head",
        text="the inner loop adapts the head alone",
        cite='Raghu, Raghu, Bengio, Vinyals, "Rapid Learning or Feature Reuse?", ICLR 2020',
    ),
    "boil": Component(
        "inner.adapts",
        off="all",
        on="body",
        excludes={
            "sharedhead": "BOIL never changes the head, and a shared one cannot tell classes apart unchanged"
        },
        text="the inner loop adapts all but the head",
        cite='Oh, Yoo, Kim, Yun, "BOIL: Towards Representation Change for Few-shot Learning", ICLR 2021',
    ),
    "metasgd": Component(
        "inner.optimizer",
        off="sgd",
        on="metasgd",
        text="a learned inner rate per weight",
        cite='Li, Zhou, Chen, Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017',
    ),
    "alfa": Component(
        "inner.optimizer",
        off="sgd",
        on="alfa",
        text="inner rates and weight decay, generated in every step",
        cite='Baik, Choi, Choi, Kim, Lee, "Meta-Learning with Adaptive Hyperparameters", NeurIPS 2020',
    ),
    "metacurvature": Component(
        "inner.optimizer",
        off="sgd",
        on="metacurvature",
        text="a learned matrix multiplies each axis of the inner gradients",
        cite='Park, Oliva, "Meta-Curvature", NeurIPS 2019',
    ),
    "metal": Component(
        "inner.loss",
        off="cross_entropy",
        on="metal",
        excludes=_LEARNED_LOSS,
        text="a learned inner loss that adapts to the task and reads the unlabelled queries (transductive)",
        cite=_METAL,
    ),
    "metal_inductive": Component(
        "inner.loss",
        off="cross_entropy",
        on="metal_inductive",
        excludes=_LEARNED_LOSS,
        text="metal without the queries: each may be predicted alone",
        cite=_METAL,
    ),
    "protomaml": Component(
        "inner.init_theta",
        off="learned",
        on="prototypes",
        excludes={"sharedhead": _HEAD_OF_PROTOTYPES},
        text="the head starts from the mean features of each class, for any number of classes",
        cite='Triantafillou et al., "Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples", '
        "ICLR 2020",
    ),
    "cavia": Component(
        "inner.adapts",
        off="all",
        on="context",
        also={"model.name": "film_conv4", "inner.learning_rate": 1.0},  # the published rate
        text="the inner loop adapts a context vector alone",
        cite='Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson, "Fast Context Adaptation via Meta-Learning", ICML 2019',
    ),
    "sharedhead": Component(
        "model.shared_head",
        off=False,
        on=True,
        text="one head vector for all classes, for any number of them",
        cite='Ye, Chao, "How to Train Your MAML to Excel in Few-Shot Classification", ICLR 2022 (UNICORN-MAML)',
    ),
    "reptile": Component(
        "train.outer_gradient",
        off="maml",
        on="reptile",
        excludes={
            **dict.fromkeys(("msl", "da"), _NO_SECOND_ORDER),
            **dict.fromkeys(("lslr", "metasgd", "alfa", "metacurvature"), _NO_RATES),
            **dict.fromkeys(("metal", "metal_inductive"), _NO_LOSS),
            **dict.fromkeys(("anil", "boil", "cavia", "protomaml"), _INNER_LOOP_ALONE),
        },
        text="the outer update leads towards where the inner steps end",
        cite='Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018',
    ),
    "tasknorm": Component(
        "norm.train_statistics",
        off="batch",
        on="tasknorm",
        also={"norm.eval_statistics": "tasknorm"},
        text="batch norm by the support set and each image",
        cite='Bronskill, Gordon, Requeima, Nowozin, Turner, "TaskNorm: Rethinking batch normalization for '
        'meta-learning", ICML 2020',
    ),
}
COMPONENTS["supervised"] = Component(
    "train.outer_gradient",
    off="maml",
    on="supervised",
    also={"norm.eval_statistics": "running"},
    excludes={
        name: _NOTHING_ADAPTED for name in COMPONENTS if name not in ("reptile", "ca", "tasknorm")
    },
    text="a supervised stage: one head for all training classes, nothing is adapted; runs start from it",
    cite='Chen, Liu, Xu, Darrell, Wang, "Meta-Baseline: Exploring Simple Meta-Learning for Few-Shot Learning", '
    "ICCV 2021",
)
_MAML_PLUS_PLUS = frozenset({"msl", "da", "bnrs", "bnwb", "lslr", "ca"})
# Each name can be followed by more components: "maml+msl+lslr".
METHODS: dict[str, frozenset[str]] = {
    "maml": frozenset(),
    "maml++": _MAML_PLUS_PLUS,
    "mamlpp": _MAML_PLUS_PLUS,
    **{
        name: frozenset({name})
        for name in ("fomaml", "anil", "boil", "metasgd", "alfa", "metacurvature", "tasknorm")
    },
    **{name: frozenset({name}) for name in ("metal", "metal_inductive", "protomaml", "cavia")},
    "sharedhead": frozenset({"sharedhead"}),
    "reptile": frozenset({"reptile", "fomaml"}),
    "supervised": frozenset({"supervised", "ca"}),
}
# Spellings that components can follow, as in "mamlpp+boil", with the label that they get alone.
_LABELS = {"mamlpp": "maml++"}


def parse_method(method: str) -> frozenset[str]:
    """The components of a method: a name in `METHODS`, alone or with components joined by "+".

    Raises:
        ConfigError: the name does not parse (lists what does), or two of its components exclude each other.
    """
    base, *added = [method] if method in METHODS else method.split("+")
    if base not in METHODS or not set(added) <= COMPONENTS.keys() | METHODS.keys():
        raise ConfigError(
            f"config.method is {method!r}; it must be {', '.join(METHODS)}, or one of these followed by "
            f"components, such as maml+msl, maml+bnrs+bnwb or mamlpp+boil. Components: {', '.join(COMPONENTS)}."
        )
    named = METHODS[base].union(*(METHODS.get(name, {name}) for name in added))
    _check_compatible(method, named)
    return named


def _check_compatible(method: str, named: frozenset[str]) -> None:
    """Checks that no two components set the same field, or make no sense together."""
    for first, second, reason in _exclusive_pairs():
        if {first, second} <= named:
            spelled_out, base = "", method.split("+")[0]
            if base in _LABELS:
                parts = (name for name in COMPONENTS if name in METHODS[base])
                spelled_out = f" ({base} is maml+{'+'.join(parts)})"
            raise ConfigError(
                f"config.method is {method!r}, but {first} and {second} exclude each other: {reason}. Leave one of "
                f"them out{spelled_out}."
            )


def _exclusive_pairs() -> Iterator[tuple[str, str, str]]:
    """Yields two components and why they exclude each other."""
    for name, component in COMPONENTS.items():
        yield from ((name, other, reason) for other, reason in component.excludes.items())
    for first, second in itertools.combinations(COMPONENTS, 2):
        if COMPONENTS[first].field == COMPONENTS[second].field:
            yield first, second, f"both set config.{COMPONENTS[first].field}"


def apply_method(config: ConfigDict, method: str) -> None:
    """Sets `config.method` and, in place, the field of every component.

    Components that `method` leaves out are turned off, but for those that the protocol always has. Those it names
    get their `on` value; where that is None, the field stays as it is. So does a field with a value that is no
    component's, such as `support` statistics. The label of "mamlpp" alone is "maml++".

    Raises:
        ConfigError: the method is unknown, or adds a component that the configuration has turned off.

    Example:
        >>> config = maml.default_config()
        >>> maml.apply_method(config, "anil")
        >>> config.inner.adapts
        'head'
    """
    named = parse_method(method) | PROTOCOLS[config.protocol].always
    _check_added(config, method)
    parts = [part for name, part in COMPONENTS.items() if name in named]
    used = {part.field for part in parts}
    now = dict(flatten(config))
    off = {
        part.field: part.off
        for part in COMPONENTS.values()
        if part.field not in used and part.on in (None, now[part.field])
    }
    on = {part.field: part.on for part in parts if part.on is not None}
    also = {field: value for part in parts for field, value in part.also.items()}
    left = {
        field: FIELDS[field].default
        for name in parse_method(config.method) - named
        for field, value in COMPONENTS[name].also.items()
        if now[field] == value
    }
    config.update_from_flattened_dict(
        {"method": _LABELS.get(method, method)} | off | on | left | also
    )


def _check_added(config: ConfigDict, method: str) -> None:
    """Checks that "maml+da" has derivative-order annealing to add; the released protocol has none."""
    fields = dict(flatten(config))
    for name in method.split("+"):
        part = COMPONENTS.get(name)
        if part and part.on is None and fields[part.field] == part.off:
            raise ConfigError(
                f"config.method is {method!r}, but config.{part.field} is {part.off!r} in protocol "
                f"{config.protocol!r}, so there is no {name} to add; choose another method or protocol."
            )


def check_method(config: ConfigDict) -> None:
    """Checks that no component is on that the method leaves out; the error names both and the field.

    A component that the method names may be off: MAML++ can be cut short. One that the protocol always has may be on.
    """
    named = parse_method(config.method) | PROTOCOLS[config.protocol].always
    fields = dict(flatten(config))
    for field, off, *_ in COMPONENTS.values():
        value = fields[field]
        users = [
            name
            for name, part in COMPONENTS.items()
            if part.field == field and part.on in (None, value)
        ]
        if value != off and users and named.isdisjoint(users):
            raise ConfigError(
                f"config.method is {config.method!r}, which leaves out {' and '.join(users)}, but "
                f"config.{field} is {value!r}. The method is chosen by the argument of the configuration "
                "file (--config=FILE:method=maml), which sets the field of every component."
            )
