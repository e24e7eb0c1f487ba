"""Pickles of arrays, read without running code from the file.

A pickle is a program: the standard reader imports and calls whatever it names. This one allows NumPy's
array constructors and plain containers, and refuses every other name before it is imported.
"""

from __future__ import annotations

import pickle
import pickletools
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy._core import multiarray, numeric  # where NumPy's pickles point to

from mamlpp_jax.errors import DataError

_PUTS = frozenset(["PUT", "BINPUT", "LONG_BINPUT"])


def load_arrays(path: Path) -> Any:
    """Reads a pickle of NumPy arrays, numbers, strings and plain containers.

    Pickles of Python 2 can be read too; their strings are taken as Latin-1.

    Args:
        path: the file.

    Returns:
        What was pickled.

    Raises:
        DataError: the file is missing, broken, or holds any other kind of object.
    """
    try:
        with path.open("rb") as file:
            _check_memo(file)
            file.seek(0)
            return _ArrayUnpickler(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"Pickle {path} does not exist.") from error
    except _ForbiddenError as error:
        raise DataError(
            f"Pickle {path} asks for {error}, which could run anything; only NumPy arrays and plain "
            "containers are read. This is not a plain data file."
        ) from error
    except Exception as error:  # broken opcodes make it fail in any way
        raise DataError(
            f"Pickle {path} is truncated or broken ({type(error).__name__}: {error}); copy or "
            "download it again."
        ) from error


def _check_memo(file: BinaryIO) -> None:
    """Refuses memo indices that no pickler would write.

    The reader allocates the memo up to the largest index: a file of ten bytes could ask for 64 GiB.
    """
    for opcode, index, position in pickletools.genops(file):
        if opcode.name in _PUTS and isinstance(index, int) and index > (position or 0):
            raise ValueError(f"it stores an object at memo index {index}")


class _ForbiddenError(Exception):
    """The pickle names something that is no array or container."""


def _encode(text: str, encoding: str) -> bytes:
    """`codecs.encode` for the codec of pickled bytes only; other codecs decompress."""
    if encoding != "latin1":
        raise _ForbiddenError(f"codecs.encode to {encoding!r}")
    return text.encode("latin1")


def _bytes_constructor(kind: type[bytes] | type[bytearray]) -> Callable[..., Any]:
    """A constructor of bytes that refuses a size, which could ask for gigabytes of zeros."""

    def construct(*arguments: Any) -> bytes | bytearray:
        if arguments and isinstance(arguments[0], int):
            raise _ForbiddenError(f"{kind.__name__} of a mere size")
        return kind(*arguments)

    return construct


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (list, dict, set, frozenset, tuple, int)
    },
    **{
        (module, kind.__name__): _bytes_constructor(kind)
        for module in ("builtins", "__builtin__")
        for kind in (bytes, bytearray)
    },
    **{
        (f"numpy.{core}.{module.__name__.rsplit('.', 1)[1]}", name): getattr(module, name)
        for core in ("core", "_core")
        for module, name in (
            (multiarray, "_reconstruct"),
            (multiarray, "scalar"),
            (numeric, "_frombuffer"),
        )
    },
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}") from None
