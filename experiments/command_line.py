"""The command lines of the experiments."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from absl import app, logging

from mamlpp_jax.cli.flags import fail, parse_flags
from mamlpp_jax.errors import ConfigError, MamlppError


def run_main(main: Callable[..., int | None], *, rest: bool = False) -> None:
    """Runs a command; mistakes in its flags and errors of ours end in one paragraph and exit code 2.

    The command returns the exit code. With `rest` it takes the words that are no flags; else there may be none.
    """

    def run(argv: list[str]) -> None:
        logging.set_verbosity(logging.INFO)
        try:
            sys.exit(main(argv[1:]) if rest else main())
        except MamlppError as error:
            fail(str(error))

    app.run(run, flags_parser=partial(parse_flags, rest=rest))


def parse_value(text: str, field: str, default: bool | int | float | str) -> Any:
    """Reads a value of a field in the type of its default; a text that is none is a `ConfigError`."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(default)(text)
    except (KeyError, ValueError):
        raise ConfigError(
            f"{text!r} is no value of {field}, which is {default!r} by default."
        ) from None
