"""What the command lines share: flags whose mistakes are told in one paragraph."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import flags

from mamlpp_jax import config as config_lib
from mamlpp_jax.errors import ConfigError, MamlppError

USAGE_EXIT_CODE = 2


def parse_flags(argv: list[str], configs: Sequence[flags.FlagHolder]) -> list[str]:
    """Parses flags; a mistake in them is one paragraph, not a traceback.

    Args:
        argv: the command line.
        configs: the flags that name configuration files.

    Returns:
        What is no flag: the program's name.
    """
    try:
        _check_field_names(argv, [holder.name for holder in configs])
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise ConfigError(f"{rest[1]!r} is not a flag; flags start with --.")
        for holder in configs:
            if holder.value is not None:
                holder.value.items()  # A file that cannot be read is only told of on first use.
    except (flags.Error, MamlppError) as error:
        fail(str(_root_cause(error)))
    except SyntaxError as error:
        fail(f"--config: {error.filename} is not a configuration file: {error}")
    except OSError as error:
        fail(f"--config cannot be read: {str(error).splitlines()[-1].strip()}")
    except (AttributeError, KeyError) as error:
        # What ml_collections raises when a configuration file reads a field that is not there.
        fail(f"--config: unknown configuration field: {_first_text(error)}")
    except (TypeError, ValueError) as error:
        fail(f"a --config field has a value of the wrong type: {error}")
    return rest


def _check_field_names(argv: list[str], names: Sequence[str]) -> None:
    """Checks the fields of --config.FIELD=... flags, whose own message names a part of the field."""
    for argument in argv[1:]:
        override = re.match(rf"--?(no)?({'|'.join(names)})\.(?P<field>[^=]+)", argument)
        if override:
            config_lib.check_field(override["field"])


def _root_cause(error: BaseException) -> BaseException:
    """Our own error, which the flag libraries wrap into others that quote its traceback."""
    cause: BaseException | None = error
    root = error
    while cause is not None:
        root = cause if isinstance(cause, MamlppError) else root
        cause = cause.__cause__ or cause.__context__
    return root


def _first_text(error: BaseException) -> str:
    """The message of an error whose argument may be another error, on one line."""
    first = error.args[0] if error.args else ""
    return _first_text(first) if isinstance(first, BaseException) else " ".join(str(first).split())


def fail(message: str) -> NoReturn:
    """Ends the program with one paragraph on standard error."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(USAGE_EXIT_CODE)
