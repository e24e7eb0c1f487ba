"""The parts of the program that a field chooses by name.

A part is a row of a table, and everything that tells it from the others stands in that row. A new part is a new row,
from any file:

    BACKBONES["mine"] = Backbone(MyModule, {"model.filters": "width"})

An implementation may be named by its place and is then imported when it is used: configurations need no JAX.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Part:
    """A value of a field that names a part of the program."""

    implementation: str | Callable[..., Any]  # callable, or its place, "module:name"
    # Full names of the fields that it takes, with the arguments of `implementation` that get their values. A field
    # that only other parts take must keep its default.
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """The implementation, imported."""
        named = self.implementation
        return pkgutil.resolve_name(named) if isinstance(named, str) else named

    def make(self, values: Mapping[str, Any], **arguments: Any) -> Any:
        """Calls the implementation with its options, of the values of all fields, and with further arguments."""
        options = {argument: values[field] for field, argument in self.options.items()}
        return self.load()(**arguments, **options)


@dataclasses.dataclass(frozen=True)
class Backbone(Part):
    """A value of `model.name`; its implementation makes a Flax module and also gets `ways`, the number of outputs."""

    # The section `model` of a configuration -> least height and width in pixels.
    smallest_image: Callable[[ConfigDict], int] = lambda model: 1
    is_random: bool = False  # it draws random numbers in training, from the stream `dropout`
    text: str = ""  # description in one line
    cite: str = ""  # source


BACKBONES: dict[str, Backbone] = {
    "conv4": Backbone(
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
    ),
    "resnet12": Backbone(
        "mamlpp_jax.models.resnet12:ResNet12",
        {"model.filters": "filters", "model.conv": "conv", "model.dtype": "compute_dtype"},
        smallest_image=lambda model: 2**4,
        text="four residual blocks",
        cite='Oreshkin, Rodriguez, Lacoste, "TADAM", NeurIPS 2018',
    ),
}

_RATE = {"inner.learning_rate": "learning_rate"}
_INNER_OPTIMIZERS = "mamlpp_jax.algorithms.inner_optimizers"
# Values of `inner.optimizer`; each implementation makes an `InnerOptimizer`.
INNER_OPTIMIZERS: dict[str, Part] = {
    "lslr": Part(f"{_INNER_OPTIMIZERS}:lslr", _RATE),
    "sgd": Part(f"{_INNER_OPTIMIZERS}:sgd", _RATE),
    "metasgd": Part(f"{_INNER_OPTIMIZERS}:metasgd", {**_RATE, "inner.per_step": "per_step"}),
    "alfa": Part(f"{_INNER_OPTIMIZERS}:alfa", _RATE),
}


@dataclasses.dataclass(frozen=True)
class OuterDirection(Part):
    """A value of `train.outer_gradient`; its implementation is the gradient function itself."""

    of_query_loss: bool = True  # its gradient is that of the query loss, through the inner steps


OUTER_DIRECTIONS: dict[str, OuterDirection] = {
    "maml": OuterDirection("mamlpp_jax.algorithms.outer_loop:meta_gradient"),
    "reptile": OuterDirection(
        "mamlpp_jax.algorithms.reptile:reptile_gradient", of_query_loss=False
    ),
}


@dataclasses.dataclass(frozen=True)
class Adapts:
    """A value of `inner.adapts`: the parameters that inner steps change."""

    body: bool = True  # whether those before the head are among them
    head: bool = True  # whether those of the head are


ADAPTS: dict[str, Adapts] = {
    "all": Adapts(),
    "head": Adapts(body=False),
    "body": Adapts(head=False),
}
