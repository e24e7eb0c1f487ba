"""The parts that the command lines share: help, and mistakes explained in one paragraph."""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from mamlpp_jax import config as config_lib
from mamlpp_jax.cli.config_files import error_text, load_config, ready_configs
from mamlpp_jax.config.fields import FIELDS
from mamlpp_jax.config.protocols import PROTOCOLS
from mamlpp_jax.errors import ConfigError, MamlppError
from mamlpp_jax.utils.files import wrap_os_errors

USAGE_EXIT_CODE = 2
_HELP = {"--help", "-help", "-h", "-?", "--helpshort"}

# The command line, from `parse_flags` on. ml_collections looks for a configuration's fields in it; of its own accord it
# reads `sys.argv`, and files that --flagfile names there, when a flag is defined, where nothing explains a mistake.
_ARGV: list[str] = []


def define_config(name: str, text: str) -> flags.FlagHolder:
    """A flag of this name and help that names a configuration file, and flags of its fields."""
    return config_flags.DEFINE_config_file(name, None, text, lock_config=True, sys_argv=_ARGV)


CONFIG = define_config(
    "config",
    "Configuration file, or the name of a ready one, optionally with an argument after a colon.",
)


class _ConfigParser(flags.ArgumentParser):
    """The parser of a configuration flag."""

    def __init__(self, flag: str) -> None:
        self._flag = flag

    def parse(self, argument: str) -> ConfigDict:
        try:
            return load_config(argument).lock()
        except MamlppError as error:
            raise ConfigError(f"--{self._flag}: {error}") from error


def parse_flags(
    argv: list[str],
    configs: Sequence[flags.FlagHolder] = (),
    *,
    module: str = "__main__",
    rest: bool = False,
) -> list[str]:
    """Parses flags and returns the rest behind the program's name; a mistake is one paragraph, not a traceback.

    `--help` prints the docstring and the flags of the command's module, `--fields` the fields of configurations; both
    exit with 0. `configs` are the flags that name configuration files; with `rest` there may be arguments that are no
    flags.
    """
    if not _HELP.isdisjoint(argv[1:]):
        _print_help(module, with_configs=bool(configs))
        sys.exit(0)
    if configs and "--fields" in argv[1:]:
        print(fields_text())
        sys.exit(0)
    names = [holder.name for holder in configs]
    _ARGV[:] = argv
    try:
        for name in names:
            flags.FLAGS[name].parser = _ConfigParser(name)
        _check_field_names(argv, names)
        left = flags.FLAGS(argv)
        if len(left) > 1 and not rest:
            raise ConfigError(f"{left[1]!r} is not a flag; flags start with --.")
    except (flags.Error, MamlppError) as error:
        fail(_explain(error, names))
    except (TypeError, ValueError, LookupError, AttributeError, SyntaxError) as error:
        # Raised by ml_collections for a --config.FIELD in a --flagfile that is no field.
        fail(f"a flag cannot be used ({error_text(error)}).")
    return left


def output_file(flag: flags.FlagHolder, formats: Sequence[str] = ()) -> pathlib.Path | None:
    """The file that a flag names, checked before anything is computed for it; None where it names none.

    `formats` are the suffixes that the file may have; empty for any.
    """
    if not flag.value:
        return None
    path = pathlib.Path(flag.value)
    if formats and path.suffix.lower() not in formats:
        raise ConfigError(
            f"--{flag.name} is {flag.value!r}; the file's name must end in {' or '.join(formats)}."
        )
    with wrap_os_errors(path, "look for"):
        if not path.parent.is_dir():
            raise ConfigError(f"--{flag.name}: there is no folder {path.parent}; make it first.")
        if path.is_dir():
            raise ConfigError(f"--{flag.name}: {path} is a folder; it must be a file.")
    return path


def _print_help(module: str, with_configs: bool) -> None:
    """Prints the help of a command; absl's own knows the started script only."""
    modules = [__name__, module] if with_configs else [module]
    print(sys.modules[module].__doc__)
    print("flags:", *map(flags.FLAGS.module_help, modules), sep="\n")
    if with_configs:
        print(f"\nconfigurations found from any folder: {', '.join(ready_configs())}")
        print("--fields lists the fields of a configuration: --config.train.epochs=10 sets one.")


def fields_text() -> str:
    """Every field of a configuration with its default, meaning and allowed values, two lines each."""
    return "\n".join(
        f"{name}={field.default}\n    {field.text}"
        + ("; true or false" if isinstance(field.default, bool) else "")
        + (f"; {field.rule.text.removeprefix('it ')}" if field.rule.text else "")
        for name, field in FIELDS.items()
    )


def _check_field_names(argv: list[str], names: Sequence[str]) -> None:
    """Checks the fields of --config.FIELD=... flags, whose own message names a part of the field."""
    for argument in argv[1:]:
        override = re.match(rf"--?(no)?(?P<config>{'|'.join(names)})\.(?P<field>[^=]*)", argument)
        if override:
            config_lib.check_field(override["field"])
            if override["config"] == "data_config" and not override["field"].startswith("data."):
                raise ConfigError(
                    f"{argument}: of --data_config only the fields data.* are used; --way, --shot, --query, --tasks "
                    "and --inner_steps change the test."
                )
            if override["field"] == "protocol" and argument.partition("=")[2] in PROTOCOLS:
                raise ConfigError(
                    f"{argument} would name a protocol and not set its fields; choose it by the argument of the "
                    "configuration: --config=configs/omniglot.py:protocol=released."
                )


def _explain(error: Exception, configs: Sequence[str]) -> str:
    """The mistake in the flags and the values they may have; the flag libraries quote Python's own errors."""
    root = _root_cause(error)
    if isinstance(root, MamlppError):
        return str(root)
    if isinstance(error, flags.UnrecognizedFlagError):
        config, _, field = error.flagname.partition(".")
        if config in configs and field:
            return f"--{error.flagname} changes a field of --{config}, which is missing; give --{config}=FILE."
        return f"{str(error).removesuffix(' ?')}; --help lists the flags, and --noNAME is for flags of true and false."
    if isinstance(error, flags.CantOpenFlagFileError):
        return f"--flagfile: {str(error).removeprefix('ERROR:: ')}"
    head = re.match(r"flag --([\w.]+)=", str(error))
    if not isinstance(error, flags.IllegalFlagValueError) or head is None:
        return str(error)
    value = str(error)[head.end() :].removesuffix(f": {error.__context__}")
    config, _, field = head[1].partition(".")
    if not field:
        return f"--{head[1]} is {value!r}; it must be {_allowed(flags.FLAGS[head[1]].parser)}."
    try:
        config_lib.check_value(field, value)  # a text, which the field may not be
    except ConfigError as wrong:
        return f"--{config}: {wrong}"
    return str(error)


def _allowed(parser: flags.ArgumentParser) -> str:
    """The values that a flag may have."""
    if isinstance(parser, flags.EnumParser):
        return f"one of {', '.join(parser.enum_values)}"
    if isinstance(parser, flags.BooleanParser):
        return "true or false"
    number = "a whole number" if isinstance(parser, flags.IntegerParser) else "a number"
    low = getattr(parser, "lower_bound", None)
    return number if low is None else f"{number} of at least {low:g}"


def _root_cause(error: BaseException) -> BaseException:
    """Our own error that explains most, which the flag libraries wrap into others that quote its traceback."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MamlppError):
        cause = cause.__cause__ or cause.__context__
    return cause or error


def fail(message: str) -> NoReturn:
    """Ends the program with one paragraph on standard error."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(USAGE_EXIT_CODE)
