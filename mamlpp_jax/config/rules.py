"""The rules that fields follow, with the words that explain them to a user who broke one."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Callable, Collection
from typing import Any

from mamlpp_jax.config.own_code import FORM, is_own

MAX_INT = 2**31 - 1  # JAX converts Python ints to int32


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """The values a field may have."""

    allows: Callable[[Any], bool]  # a value of the field's type -> whether the field may have it
    requirement: str  # the end of an error message; "{}" stands for the choices
    choices: Collection[str] = ()  # names, perhaps of a table that grows; empty for other values

    @property
    def text(self) -> str:
        """The requirement, with the choices that there are now."""
        return self.requirement.replace("{}", ", ".join(self.choices))


def whole(low: int, high: int = MAX_INT, reason: str = "") -> Rule:
    """Whole numbers from `low` to `high`, both included."""
    return Rule(lambda value: low <= value <= high, f"it must be from {low} to {high}{reason}")


def one_of(choices: Collection[str]) -> Rule:
    """One of the choices, such as the names of a table."""
    return Rule(lambda value: value in choices, "choose one of {}", choices)


def part_of(choices: Collection[str]) -> Rule:
    """One of the choices, or the name of a part of the user's own."""
    return Rule(
        lambda value: value in choices or is_own(value),
        f"choose one of {{}}, or a part of your own as {FORM}",
        choices,
    )


def some_of(choices: Collection[str]) -> Rule:
    """One or several of the choices, joined by commas."""

    def allows(text: str) -> bool:
        parts = parse_list(text)
        return set(parts) <= {*choices} and len(set(parts)) == len(parts)

    return Rule(
        allows, "choose one or several of {}, joined by commas, none of them twice", choices
    )


def parse_list(text: str) -> tuple[str, ...]:
    """The parts of a text such as "batch,support"."""
    return tuple(part.strip() for part in text.split(","))


def _are_fractions(text: str) -> bool:
    if not text:
        return True
    try:
        fractions = [float(part) for part in text.split(",")]
    except ValueError:
        return False
    return len(fractions) == 3 and all(f > 0 for f in fractions) and sum(fractions) <= 1 + 1e-9


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _has_home(path: str) -> bool:
    try:
        pathlib.Path(path).expanduser()
    except RuntimeError:  # ~somebody/folder
        return False
    return True


ANY = Rule(lambda value: True, "")
SEED = whole(0, 2**32 - 1)  # random keys take 32 bits
POSITIVE = Rule(lambda value: 0 < value < math.inf, "it must be a positive number")
DECAY = Rule(lambda value: 0 <= value < 1, "it must be in [0, 1)")
SHARE = Rule(lambda value: 0 <= value <= 1, "it must be in [0, 1]")
CLIP = Rule(
    lambda value: 0 <= value < math.inf, "it must be a positive number, or 0 for no clipping"
)
CHANNELS = Rule(
    lambda value: value in (0, 1, 3),
    "it must be 1 (grey), 3 (colour) or 0 (as the images are)",
)
AUTOMATIC_FRACTIONS = "0.64,0.16,0.2"  # where none are given and the classes are enough
FRACTIONS = Rule(
    _are_fractions,
    "it must be three positive numbers for train, val and test, with a sum of at most 1, such as "
    f"{AUTOMATIC_FRACTIONS}, or empty to have them chosen",
)
OPTIONS = Rule(_is_json_object, """it must be a JSON object, such as '{"width": 32}'""")
FOLDER = Rule(_has_home, "no user of that name has a home folder here")
FOLDER_NAME = Rule(
    lambda value: re.fullmatch(r"[\w+-][\w.+-]*", value) is not None,
    "it names folders, so it must be letters, digits and _ + - . only, and not begin with a dot",
)
