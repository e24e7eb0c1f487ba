"""The parts of the program that a field chooses by name.

A part is a row of a table, and everything that tells it from the others stands in that row. A new part is a new row,
from any file:

    BACKBONES["mine"] = Backbone(MyModule, {"model.filters": "width"})

A field may also name a part that has no row, by its place: `--config.model.name=my_module:MyNetwork`. It is called with
the options of its section, `--config.model.options='{"width": 32}'`.

An implementation may be named by its place and is then imported when it is used: configurations need no JAX.
"""

from __future__ import annotations

import dataclasses
import json
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from ml_collections import ConfigDict

from mamlpp_jax.config.own_code import call_own, import_own, is_own

# In `Part.options`: the field holds a JSON object, whose entries are arguments.
ENTRIES = "**"


@dataclasses.dataclass(frozen=True)
class Part:
    """A value of a field that names a part of the program."""

    implementation: str | Callable[..., Any]  # callable, or its place, "module:name"
    # Full names of the fields that it takes, with the arguments of `implementation` that get their values. A field
    # that only other parts take must keep its default.
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    own_of: str = ""  # the field that names it, where it is the user's own

    def load(self) -> Callable[..., Any]:
        """The implementation, imported; a `ConfigError` where one of the user's own cannot be."""
        named = self.implementation
        if self.own_of:
            return import_own(str(named), self.own_of)
        return pkgutil.resolve_name(named) if isinstance(named, str) else named

    def make(self, values: Mapping[str, Any], **arguments: Any) -> Any:
        """Calls the implementation with its options, of the values of all fields, and with further arguments.

        A part of the user's own that cannot be imported or called is a `ConfigError`.
        """
        for field, argument in self.options.items():
            arguments |= (
                json.loads(values[field]) if argument == ENTRIES else {argument: values[field]}
            )
        if self.own_of:
            return call_own(self.load(), str(self.implementation), self.own_of, arguments)
        return self.load()(**arguments)


PartT = TypeVar("PartT", bound=Part)


class PartTable(dict[str, PartT], Generic[PartT]):
    """Parts by name; the name of a part of the user's own, "module:attribute", needs no row."""

    def __init__(self, rows: Mapping[str, PartT], own: PartT) -> None:
        """`own` is the row of the user's own parts, without an implementation."""
        super().__init__(rows)
        self.own = own

    def __missing__(self, name: str) -> PartT:
        if not is_own(name):
            raise KeyError(name)
        return dataclasses.replace(self.own, implementation=name)


@dataclasses.dataclass(frozen=True)
class Backbone(Part):
    """A value of `model.name`; its implementation makes a Flax module and also gets `ways`, the number of outputs."""

    # The section `model` of a configuration -> least height and width in pixels.
    smallest_image: Callable[[ConfigDict], int] = lambda model: 1
    is_random: bool = False  # it draws random numbers in training, from the stream `dropout`
    text: str = ""  # description in one line
    cite: str = ""  # source


_CONV4 = Backbone(
    "mamlpp_jax.models.conv4:Conv4",
    {
        "model.filters": "filters",
        "model.max_pool": "max_pool",
        "model.conv": "conv",
        "model.dtype": "compute_dtype",
    },
    smallest_image=lambda model: 2**4 if model.max_pool else 1,
    text="four convolutional blocks",
    cite='Vinyals et al., "Matching Networks for One Shot Learning", NIPS 2016',
)
_BACKBONES = {
    "conv4": _CONV4,
    "film_conv4": dataclasses.replace(
        _CONV4,
        implementation="mamlpp_jax.models.film:FilmConv4",
        text="four convolutional blocks, the third modulated by context parameters",
        cite='Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson, "Fast Context Adaptation via Meta-Learning", ICML 2019',
    ),
    "resnet12": Backbone(
        "mamlpp_jax.models.resnet12:ResNet12",
        {
            "model.filters": "filters",
            "model.conv": "conv",
            "model.dtype": "compute_dtype",
            "model.normalize_features": "normalize_features",
        },
        smallest_image=lambda model: 2**4,
        text="four residual blocks",
        cite='Oreshkin, Rodriguez, Lacoste, "TADAM", NeurIPS 2018',
    ),
}
BACKBONES = PartTable(
    _BACKBONES,
    # It is not known to draw nothing.
    own=Backbone("", {"model.options": ENTRIES}, own_of="model.name", is_random=True),
)

_RATE = {"inner.learning_rate": "learning_rate"}
_INNER_OPTIMIZERS = "mamlpp_jax.algorithms.inner_optimizers"
# Values of `inner.optimizer`; each implementation makes an `InnerOptimizer`.
INNER_OPTIMIZERS = PartTable(
    {
        "lslr": Part(f"{_INNER_OPTIMIZERS}:lslr", _RATE),
        "sgd": Part(f"{_INNER_OPTIMIZERS}:sgd", _RATE),
        "metasgd": Part(f"{_INNER_OPTIMIZERS}:metasgd", {**_RATE, "inner.per_step": "per_step"}),
        "alfa": Part(f"{_INNER_OPTIMIZERS}:alfa", _RATE),
        "metacurvature": Part(
            "mamlpp_jax.algorithms.metacurvature:metacurvature",
            {**_RATE, "inner.per_step": "per_step"},
        ),
    },
    own=Part("", {**_RATE, "inner.options": ENTRIES}, own_of="inner.optimizer"),
)


@dataclasses.dataclass(frozen=True)
class InnerLossPart(Part):
    """A value of `inner.loss`; its implementation makes a `Loss` or an `InnerLoss`."""

    transductive: bool = False  # it reads the queries, without their labels
    of_outputs: bool = False  # it learns of the head's outputs: as many as in training, or fewer


INNER_LOSSES = PartTable(
    {
        "cross_entropy": InnerLossPart("mamlpp_jax.algorithms.losses:CrossEntropy"),
        "metal": InnerLossPart(
            "mamlpp_jax.algorithms.metal:metal", transductive=True, of_outputs=True
        ),
        "metal_inductive": InnerLossPart(
            "mamlpp_jax.algorithms.metal:metal_inductive", of_outputs=True
        ),
    },
    own=InnerLossPart("", {"inner.loss_options": ENTRIES}, own_of="inner.loss"),
)


@dataclasses.dataclass(frozen=True)
class InitialWeights(Part):
    """A value of `inner.init_theta`; its implementation makes an `InitTheta` and also gets `ways`, K."""

    any_way: bool = False  # its head has as many outputs as a task has classes, and none is learned


INIT_THETA = PartTable(
    {
        "learned": InitialWeights("mamlpp_jax.algorithms.learner:learned_theta"),
        "prototypes": InitialWeights("mamlpp_jax.algorithms.protomaml:prototypes", any_way=True),
    },
    own=InitialWeights("", own_of="inner.init_theta"),
)

# The part that `data.name` names where it is the user's own; it makes an `EpisodeSource`. Built-in data sets are those
# of `mamlpp_jax.data.sources.registry`.
OWN_DATA = PartTable({}, own=Part("", {"data.options": ENTRIES}, own_of="data.name"))


@dataclasses.dataclass(frozen=True)
class OuterDirection(Part):
    """A value of `train.outer_gradient`; its implementation is the gradient function itself."""

    all_classes: bool = (
        False  # the backbone has an output for every training class, and nothing is adapted
    )
    predict: str = "mamlpp_jax.algorithms.evaluation:task_logits"  # how validation predicts a task
    of_query_loss: bool = True  # its gradient is that of the query loss, through the inner steps


OUTER_DIRECTIONS = PartTable(
    {
        "maml": OuterDirection("mamlpp_jax.algorithms.outer_loop:meta_gradient"),
        "reptile": OuterDirection(
            "mamlpp_jax.algorithms.reptile:reptile_gradient", of_query_loss=False
        ),
        "supervised": OuterDirection(
            "mamlpp_jax.algorithms.supervised:supervised_gradient",
            # Read where batches are sampled; every other outer gradient refuses them.
            {"train.images_per_task": "batch_size", "data.augment": "augment"},
            all_classes=True,
            predict="mamlpp_jax.algorithms.supervised:centroid_logits",
        ),
    },
    own=OuterDirection("", own_of="train.outer_gradient"),
)


@dataclasses.dataclass(frozen=True)
class Adapts:
    """A value of `inner.adapts`: the parameters that inner steps change."""

    # (path of a tensor, whether it belongs to the head) -> whether an inner step changes it; None for all of them.
    chooses: Callable[[str, bool], bool] | None = None
    body: bool = True  # whether some of those before the head are among them


ADAPTS: dict[str, Adapts] = {
    "all": Adapts(),
    "head": Adapts(lambda path, in_head: in_head, body=False),
    "body": Adapts(lambda path, in_head: not in_head),
    "context": Adapts(lambda path, in_head: path == "context"),
}
