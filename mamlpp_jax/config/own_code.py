"""Parts of a user's own, named "module:attribute" in a configuration, and when their code may be imported.

A name on the command line, in a call or in a configuration file is the user's word. One that is read from a
`config.json` may be anybody's, so nothing of it is imported unless the user allows it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import pathlib
import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mamlpp_jax.errors import ConfigError, MamlppError

# The fields whose value may name a part of a user's own.
CODE_FIELDS = (
    *("model.name", "inner.optimizer", "inner.loss", "inner.init_theta"),
    *("train.outer_gradient", "data.name"),
)
FORM = "module:attribute, such as my_module:MyNetwork for `from my_module import MyNetwork`"


class Code(NamedTuple):
    """The user's permissions for parts of a run's own.

    Attributes:
        allowed: whether code may be imported that a stored configuration names (--allow_code).
        change_allowed: whether a run may go on with other source than it began with (--allow_code_change).
    """

    allowed: bool = False
    change_allowed: bool = False


def is_own(name: str) -> bool:
    """Checks whether a name has the form of an own part's; nothing is imported."""
    return bool(re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", name)) and (
        not name.startswith("tfds:")
    )


def own_names(config: ConfigDict) -> dict[str, str]:
    """The own parts of a configuration: field -> name."""
    values = {field: _value(config, field) for field in CODE_FIELDS}
    return {field: name for field, name in values.items() if is_own(name)}


def _value(config: ConfigDict, field: str) -> str:
    section, _, key = field.partition(".")
    return str(config[section][key])


def check_allowed(config: ConfigDict, source: pathlib.Path | str, allow_code: bool) -> None:
    """Checks that the code which a stored configuration names may be imported.

    Args:
        config: read from a file that somebody else may have written.
        source: that file, for the error.
        allow_code: whether the user allows it.

    Raises:
        ConfigError: it names code, which is not allowed.
    """
    if (names := own_names(config)) and not allow_code:
        listed = ", ".join(f"{field}={name}" for field, name in names.items())
        raise ConfigError(
            f"{source} names code of its own ({listed}), and nothing of it was imported; if you trust it, allow it by "
            "--allow_code, or allow_code=True in Python."
        )


def import_own(name: str, field: str) -> Callable[..., Any]:
    """Imports an own part.

    Args:
        name: "module:attribute".
        field: the field that names it, for errors.

    Raises:
        ConfigError: the module or attribute is missing, the module raises, or the attribute cannot be called.
    """
    module_name, _, attributes = name.partition(":")
    called = f"config.{field} is {name!r}"
    try:
        part: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{called}, but there is no module {error.name!r} in the current folder or among the installed "
                f"packages; write {FORM}."
            ) from error
        raise _broken(called, module_name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(called, module_name, error) from error
    for attribute in attributes.split("."):
        if not hasattr(part, attribute):
            close = difflib.get_close_matches(attribute, dir(part), n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ConfigError(f"{called}, but {module_name} has no {attribute!r}{hint}.")
        part = getattr(part, attribute)
    if not callable(part):
        raise ConfigError(f"{called}, which is a {type(part).__name__}; it must be callable.")
    own: Callable[..., Any] = part
    return own


def _broken(called: str, module: str, error: BaseException) -> ConfigError:
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if "importlib" not in frame.filename and "own_code" not in frame.filename
    ]
    where = f" ({pathlib.Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return ConfigError(
        f"{called}, but importing {module} raises {type(error).__name__}{where}: {one_line(error)}."
    )


def one_line(error: BaseException) -> str:
    """The message of an error on one line, without its full stop."""
    return " ".join(str(error).split()).removesuffix(".") or "no message"


def call_own(
    function: Callable[..., Any], name: str, field: str, arguments: Mapping[str, Any]
) -> Any:
    """Calls an own part.

    Raises:
        ConfigError: it raises; shows the call.
    """
    try:
        return function(**arguments)
    except MamlppError:
        raise
    except Exception as error:
        call = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        raise ConfigError(
            f"config.{field}: {call} raises {type(error).__name__}: {one_line(error)}."
        ) from error


def source_hashes(config: ConfigDict) -> dict[str, str]:
    """SHA-256 of the source file of each own part's module, which is imported; "" for one without a file."""
    hashes = {}
    for field, name in sorted(own_names(config).items()):
        import_own(name, field)
        module = importlib.import_module(name.partition(":")[0])
        try:
            source = pathlib.Path(inspect.getsourcefile(module) or "").read_bytes()
        except (OSError, TypeError):
            source = b""
        hashes[module.__name__] = hashlib.sha256(source).hexdigest() if source else ""
    return hashes
