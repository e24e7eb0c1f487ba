"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from mamlpp_jax.errors import WorkdirError

_TEMPORARY_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\.tmp")
_DEEPEST = 32  # levels of nesting


@contextlib.contextmanager
def wrap_os_errors(path: pathlib.Path, action: str) -> Iterator[None]:
    """Turns an OSError inside the block into a `WorkdirError` that says which action on which file failed."""
    try:
        yield
    except OSError as error:
        raise WorkdirError(f"cannot {action} {path}: {error.strerror or error}") from error


def exists(path: pathlib.Path) -> bool:
    """Returns True where there is a file or folder; a `WorkdirError` where that cannot be told, as on a lost disk."""
    with wrap_os_errors(path, "look for"):
        return path.exists()


@contextlib.contextmanager
def atomic_open(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a binary file that takes the place of `path`, in a folder that exists, only when the block ends well."""
    # In the same folder, because os.replace is atomic within one file system only. The name is
    # unique, because several processes may fill a shared cache at once.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def is_unfinished(name: str) -> bool:
    """Returns True for names of files that `atomic_open` is writing, or was when it was cut off."""
    return _TEMPORARY_NAME.fullmatch(name) is not None


def remove_unfinished(folder: pathlib.Path, name: str | None = None) -> None:
    """Removes what writers that were killed inside `atomic_open` left behind, of the file `name` or of any.

    Nobody else may be writing in the folder, or only other files than `name`.
    """
    with wrap_os_errors(folder, "remove unfinished files from"):
        for path in folder.glob(".*.tmp"):
            match = _TEMPORARY_NAME.fullmatch(path.name)
            if match and name in (None, match["name"]):
                path.unlink(missing_ok=True)


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Replaces a file in a folder that exists; whatever happens, readers see the old content or the new one.

    A file that cannot be written is a `WorkdirError`.
    """
    path = pathlib.Path(path)
    with wrap_os_errors(path, "write"), atomic_open(path) as file:
        file.write(content)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as JSON, atomically; see `json_bytes` and `write_atomically`."""
    write_atomically(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The content of a JSON file: keys in the order given, indented by two.

    It may hold dicts, sequences, strings, numbers, None, NumPy scalars and arrays, and paths. Numbers that are not
    finite become null, for JSON has none.
    """
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file; a `WorkdirError` names one that is missing, unreadable or not JSON."""
    with wrap_os_errors(path, "read"):
        content = pathlib.Path(path).read_bytes()
    try:
        value = json.loads(content)
    # JSONDecodeError or UnicodeDecodeError; thousands of brackets within each other.
    except (ValueError, RecursionError) as error:
        raise WorkdirError(f"{path} is not readable as JSON: {error}") from error
    if _is_deeper(value, _DEEPEST):
        raise WorkdirError(f"{path} is nested deeper than {_DEEPEST} levels; no file of ours is.")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    """Without recursion, which is what such a value would break later."""
    level = [value]
    for _ in range(levels):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _plain(value: Any) -> Any:
    """The part of a value that JSON can hold."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
