"""What the command lines share: help, ready configurations, mistakes told in one paragraph."""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import flags
from ml_collections import config_flags

from mamlpp_jax import config as config_lib
from mamlpp_jax.errors import ConfigError, MamlppError

USAGE_EXIT_CODE = 2
_HELP = {"--help", "-help", "-h", "-?", "--helpshort"}
_PACKAGE = pathlib.Path(__file__).parents[1]
# Where a wheel puts the ready configurations, and where a checkout has them.
_READY_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration file, or the name of a ready one, optionally with an argument after a colon.",
    lock_config=True,
)


def ready_configs() -> dict[str, pathlib.Path]:
    """The files of the ready configurations by name, such as "quickstart"."""
    folder = next(filter(pathlib.Path.is_dir, _READY_FOLDERS), _READY_FOLDERS[0])
    return {path.stem: path for path in sorted(folder.glob("[a-z]*.py"))}


def find_config(path: str) -> pathlib.Path:
    """Finds a configuration file: a local one, or else the ready one of that name.

    Args:
        path: a file, or "configs/NAME.py", "NAME.py" or "NAME" of a ready configuration.

    Raises:
        ConfigError: neither exists; lists the ready ones.
    """
    file, ready = pathlib.Path(path), ready_configs()
    if file.exists() and not file.is_dir():
        return file
    name = re.fullmatch(r"(configs/)?(\w+)(\.py)?", file.as_posix())
    if name is None or name[2] not in ready:
        raise ConfigError(
            f"there is no configuration file {path!r} here, and no ready configuration of that name; "
            f"the ready ones are {', '.join(f'configs/{known}.py' for known in ready)}."
        )
    return ready[name[2]]


class _ConfigParser(flags.ArgumentParser):
    """The parser of a configuration flag, which also finds the ready configurations."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def parse(self, argument: str) -> Any:
        path, *rest = argument.split(":", 1)
        return self._parser.parse(":".join([str(find_config(path)), *rest]))


def parse_flags(
    argv: list[str],
    configs: Sequence[flags.FlagHolder] = (),
    *,
    module: str = "__main__",
    rest: bool = False,
) -> list[str]:
    """Parses flags; a mistake in them is one paragraph, not a traceback.

    `--help` prints the docstring and the flags of the command's module, and exits with 0.

    Args:
        argv: the command line.
        configs: the flags that name configuration files.
        module: the command's module.
        rest: whether there may be arguments that are no flags.

    Returns:
        What is no flag, behind the program's name.
    """
    if not _HELP.isdisjoint(argv[1:]):
        _print_help(module, with_configs=bool(configs))
        sys.exit(0)
    try:
        for holder in configs:
            flags.FLAGS[holder.name].parser = _ConfigParser(flags.FLAGS[holder.name].parser)
        _check_field_names(argv, [holder.name for holder in configs])
        left = flags.FLAGS(argv)
        if len(left) > 1 and not rest:
            raise ConfigError(f"{left[1]!r} is not a flag; flags start with --.")
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
    return left


def _print_help(module: str, with_configs: bool) -> None:
    """Prints the help of a command; absl's own knows the started script only."""
    modules = [__name__, module] if with_configs else [module]
    print(sys.modules[module].__doc__)
    print("flags:", *map(flags.FLAGS.module_help, modules), sep="\n")
    if with_configs:
        print(f"\nconfigurations found from any folder: {', '.join(ready_configs())}")


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
