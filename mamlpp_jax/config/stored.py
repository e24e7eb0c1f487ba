"""Configurations that were stored, perhaps by an earlier version whose fields were others."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mamlpp_jax.config.fields import FIELDS, flatten, nested
from mamlpp_jax.errors import ConfigError


class RemovedField(NamedTuple):
    """A field of earlier versions."""

    off: bool | int | float | str  # its value in a run that did without it
    last_commit: str  # the last commit that has the field


# Each of them acted in training alone.
REMOVED_FIELDS: dict[str, RemovedField] = {
    "inner.rate_decay": RemovedField(0.0, "28e0004"),
    "model.drop_block": RemovedField(0.0, "28e0004"),
}


def complete(stored: Mapping[str, Any], *, to_train: bool = True) -> ConfigDict:
    """The configuration that a file holds, in the fields of this version; values are not checked.

    A field that the file lacks gets its default, since the file was written before the field existed. A field that
    was removed is dropped, and a removed value (`Field.removed`) gives way to the default. For training, a removed
    field must have been off; a trained model that is only used may have had it.

    Raises:
        ConfigError: a removed field is not off, or a field is unknown.
    """
    values = dict(flatten(stored))
    if not values:
        raise ConfigError("the configuration is empty.")
    for name, (off, last_commit) in REMOVED_FIELDS.items():
        value = values.pop(name, off)
        if value != off and to_train:
            raise ConfigError(
                f"config.{name} is {value!r}, but that option was removed; {last_commit} is the last commit that can "
                "train, continue and test such a run."
            )
    for name in values:
        check_field(name)
    for name, field in FIELDS.items():
        if name not in values or values[name] in field.removed:
            values[name] = field.default
    return nested({name: values[name] for name in FIELDS})


def check_field(name: str) -> None:
    """Checks that a field such as "train.epochs" exists.

    The error names the last commit that has it, or suggests one that exists.
    """
    if name in REMOVED_FIELDS:
        commit = REMOVED_FIELDS[name].last_commit
        raise ConfigError(f"config.{name} was removed; {commit} is the last commit that has it.")
    if name not in FIELDS:
        raise ConfigError(
            f"config.{name} is not a field (did you mean config.{_closest(name)}?); --fields lists them all."
        )


def _closest(name: str) -> str:
    """The field that a name means most likely, by its words, their initials and the field's meaning."""
    wanted, key = _words(name), name.rpartition(".")[2]

    def score(field: str) -> float:
        own = field.rpartition(".")[2]
        have, meaning = _words(field), _words(FIELDS[field].text.lower())
        return (
            difflib.SequenceMatcher(None, name, field).ratio()
            + len(wanted & have) / len(wanted)
            + 0.5 * len(_words(key) & meaning) / len(_words(key))
            + (key == "".join(word[0] for word in own.split("_")))
            + 0.5 * own.startswith(key)
        )

    return max(FIELDS, key=score)


def _words(text: str) -> set[str]:
    """The words of a text, in the singular."""
    return {word.rstrip("s") for word in re.findall("[a-z]+", text)} or {""}


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The part of an error message that offers the known name closest to a misspelt one, or ""."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""
