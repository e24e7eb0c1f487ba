"""The argument of a configuration file: the part of `--config=configs/omniglot.py:way=20` after the colon."""

from __future__ import annotations

from typing import Any

from mamlpp_jax.config.stored import suggest
from mamlpp_jax.errors import ConfigError


def parse_argument(argument: str | None, defaults: dict[str, Any]) -> dict[str, Any]:
    """Reads an argument such as "way=20,shot=1,method=maml", None or "" for the defaults.

    Values are converted to the types of the defaults, whose keys are the allowed ones.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    result = dict(defaults)
    for pair in filter(None, (argument or "").split(",")):
        key, _, text = (part.strip() for part in pair.partition("="))
        if key not in defaults:
            raise ConfigError(
                f"the configuration file has no argument {key!r}{suggest(key, defaults)}; "
                f"it takes {', '.join(f'{k}={v}' for k, v in defaults.items())}."
            )
        value_type = type(defaults[key])
        try:
            result[key] = value_type(text)
        except ValueError as error:
            raise ConfigError(
                f"argument {key}={text!r} must be of type {value_type.__name__}."
            ) from error
    return result
