"""Configuration files: where they lie, and the reasons why one cannot be used."""

from __future__ import annotations

import inspect
import pathlib
import re
import sys
import traceback
import types
from typing import Any

from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.errors import ConfigError, MamlppError
from mamlpp_jax.utils.files import read_json

_PACKAGE = pathlib.Path(__file__).parents[1]
# The ready configurations of a wheel, and of a checkout.
_READY_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
_MUST = (
    "A configuration file must define get_config(), which changes and returns "
    "mamlpp_jax.config.default_config(); configs/quickstart.py is an example."
)


def ready_configs() -> dict[str, pathlib.Path]:
    """The files of the ready configurations by name, such as "quickstart"."""
    folder = next(filter(pathlib.Path.is_dir, _READY_FOLDERS), _READY_FOLDERS[0])
    return {path.stem: path for path in sorted(folder.glob("[a-z]*.py"))}


def find_config(path: str) -> pathlib.Path:
    """A local configuration file, or else the ready one of "configs/NAME.py", "NAME.py" or "NAME"."""
    file, ready = pathlib.Path(path), ready_configs()
    try:
        if file.exists() and not file.is_dir():
            return file
    except OSError as error:  # a name too long, a folder that may not be searched
        raise ConfigError(f"{path!r} cannot be looked for ({error.strerror}).") from error
    name = re.fullmatch(r"(configs/)?(\w+)(\.py)?", file.as_posix())
    if name is None or name[2] not in ready:
        raise ConfigError(
            f"there is no configuration file {path!r} here, and no ready configuration of that name; "
            f"the ready ones are {', '.join(f'configs/{known}.py' for known in ready)}."
        )
    return ready[name[2]]


def load_config(argument: str) -> ConfigDict:
    """The configuration that "FILE" or "FILE:ARGUMENT" names; its values may still be out of range.

    The file is Python, looked for as by `find_config`, or the `config.json` of a run. A `ConfigError` names a file that
    cannot be found, read or used and says what it must be.
    """
    path, *rest = argument.split(":", 1)
    file = find_config(path)
    if file.suffix == ".json":
        return _from_json(file, rest)
    config = _call(file, _run(file), rest)
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"get_config() of {file} returns {type(config).__name__}, no configuration. {_MUST}"
        )
    try:
        config_lib.check_types(config)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    return config


def _from_json(file: pathlib.Path, rest: list[str]) -> ConfigDict:
    """The configuration of a run, from the file that it was written to."""
    if rest:
        raise ConfigError(f"{file} is no Python file, so it takes no argument such as {rest[0]!r}.")
    stored = read_json(file)
    try:
        if not isinstance(stored, dict):
            raise ConfigError("it does not hold an object")
        return config_lib.from_dict(stored)
    except ConfigError as error:
        raise ConfigError(
            f"{file} is not the config.json of a run that this version can read: {error}"
        ) from error


def _run(file: pathlib.Path) -> types.ModuleType:
    """Runs a configuration file as a module, and leaves no compiled copy beside it."""
    try:
        code = compile(file.read_bytes(), str(file), "exec")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror or error}).") from error
    except Exception as error:  # a syntax error, a null byte, brackets too deep
        line = getattr(error, "lineno", None)
        reason = f"{getattr(error, 'msg', error)}{f', line {line}' if line else ''}"
        raise ConfigError(f"{file} is not a Python file: {reason}. {_MUST}") from error
    module = types.ModuleType(f"{file.stem}_config")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where dataclasses look for their module
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        raise _broken(file, error) from error
    return module


def _call(file: pathlib.Path, module: types.ModuleType, rest: list[str]) -> Any:
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"{file} has no function get_config. {_MUST}")
    try:
        inspect.signature(get_config).bind(*rest)
    except TypeError as error:
        given = (
            f"takes no argument, but {rest[0]!r} is" if rest else "needs an argument, but none is"
        )
        raise ConfigError(f"get_config() of {file} {given} given behind a colon.") from error
    try:
        return get_config(*rest)
    except (Exception, SystemExit) as error:
        raise _broken(file, error) from error


def _broken(file: pathlib.Path, error: BaseException) -> ConfigError:
    """The error for a file that raises: the project's own words, else the error and its line."""
    if isinstance(error, MamlppError):
        return ConfigError(str(error))
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    where = f" in line {lines[-1]}" if lines else ""
    return ConfigError(
        f"{file} raises {type(error).__name__}{where} ({error_text(error)}). {_MUST}"
    )


def error_text(error: BaseException) -> str:
    """The message of an error on one line; ml_collections puts errors into errors."""
    first = error.args[0] if error.args else "no message"
    return error_text(first) if isinstance(first, BaseException) else " ".join(str(first).split())
