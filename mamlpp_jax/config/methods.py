"""Methods and their components: rows of Table 1 of the paper, and every other combination.

A component is a field with a value that turns it off. A method is a set of components. Both are tables, so that
a new one is a new row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mamlpp_jax.config.identity import flatten
from mamlpp_jax.config.protocols import PROTOCOLS
from mamlpp_jax.errors import ConfigError


class Component(NamedTuple):
    """A part of a method that can be switched alone.

    Attributes:
        field: the field that switches it.
        off: the field's value without it.
        on: the field's value with it; None where the configuration chooses, as for a number of epochs.
    """

    field: str
    off: Any
    on: Any = None


COMPONENTS: dict[str, Component] = {
    "msl": Component("train.multi_step_epochs", off=0),  # multi-step loss
    "da": Component("train.first_order_epochs", off=0),  # derivative-order annealing
    "bnrs": Component("norm.per_step_statistics", off=False, on=True),
    "bnwb": Component("norm.per_step_affine", off=False, on=True),
    "lslr": Component("inner.optimizer", off="sgd", on="lslr"),  # learned inner rates
    "ca": Component("train.cosine_annealing", off=False, on=True),
}
# Each name can be followed by more components: "maml+msl+lslr".
METHODS: dict[str, frozenset[str]] = {
    "maml": frozenset(),
    "maml++": frozenset({"msl", "da", "bnrs", "bnwb", "lslr", "ca"}),
}


def parse_method(method: str) -> frozenset[str]:
    """The components of a method: a name in `METHODS`, alone or with components joined by "+".

    Raises:
        ConfigError: the name does not parse; lists what does.
    """
    if method in METHODS:
        return METHODS[method]
    base, *added = method.split("+")
    if base not in METHODS or not set(added) <= COMPONENTS.keys():
        raise ConfigError(
            f"config.method is {method!r}; it must be {', '.join(METHODS)} or maml followed by "
            f"components, such as maml+msl or maml+bnrs+bnwb. Components: {', '.join(COMPONENTS)}."
        )
    return METHODS[base].union(added)


def apply_method(config: ConfigDict, method: str) -> None:
    """Sets `config.method` and, in place, the field of every component.

    Components that `method` leaves out are turned off, but for those that the protocol always has. Those it names
    get their `on` value; where that is None, the field stays as it is.

    Raises:
        ConfigError: the method is unknown, or adds a component that the configuration has turned off.
    """
    named = parse_method(method) | PROTOCOLS[config.protocol].always
    _check_added(config, method)
    parts = [part for name, part in COMPONENTS.items() if name in named]
    used = {part.field for part in parts}
    off = {part.field: part.off for part in COMPONENTS.values() if part.field not in used}
    on = {part.field: part.on for part in parts if part.on is not None}
    config.update_from_flattened_dict({"method": method} | off | on)


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
    """Checks that no component is on that the method leaves out.

    A component that the method names may be off: MAML++ can be cut short. One that the protocol always has may be on.

    Raises:
        ConfigError: names the method, the component and its field.
    """
    named = parse_method(config.method) | PROTOCOLS[config.protocol].always
    fields = dict(flatten(config))
    for field, off, _ in COMPONENTS.values():
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
