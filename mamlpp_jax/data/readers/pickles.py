"""Pickles of arrays, read without running code from the file.

A pickle is a program: the standard reader imports and calls whatever it names. This one allows NumPy's
array constructors and plain containers, and refuses every other name before it is imported. What is left
could still crash the interpreter: a dtype that says of plain bytes that they are pointers, an array of objects that is
laid over bytes, or one with fewer objects than its shape has. So dtypes and arrays must be as NumPy writes them.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy._core import multiarray, numeric  # where NumPy's pickles point to

from mamlpp_jax.errors import DataError

_PUTS = frozenset(["PUT", "BINPUT", "LONG_BINPUT"])


def load_arrays(path: Path) -> Any:
    """Reads a pickle of NumPy arrays, numbers, strings and plain containers, with strings of Python 2 as Latin-1.

    A file that is missing, broken, or holds any other object is a `DataError`.
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


def _bytes_constructor(cls: type[bytes] | type[bytearray]) -> Callable[..., Any]:
    """A constructor of bytes that refuses a size, which could ask for gigabytes of zeros."""

    def construct(*arguments: Any) -> bytes | bytearray:
        if arguments and isinstance(arguments[0], int):
            raise _ForbiddenError(f"{cls.__name__} of a mere size")
        return cls(*arguments)

    return construct


def _reconstruct(cls: Any, shape: Any, dtype: Any) -> np.ndarray:
    """The empty array that a pickle goes on to fill; no subclass of NumPy's."""
    if cls is not _ARRAY:
        raise _ForbiddenError(f"an array of the kind {cls!r}")
    return np.asarray(multiarray._reconstruct(np.ndarray, shape, dtype))


_ARRAY = object()  # for numpy.ndarray, which could be called with a buffer
_ALLOWED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): _ARRAY,
    **{
        (module, cls.__name__): _bytes_constructor(cls) if cls in (bytes, bytearray) else cls
        for module in ("builtins", "__builtin__")
        for cls in (list, dict, set, frozenset, tuple, int, bytes, bytearray)
    },
    **{
        (f"numpy.{core}.{module}", function.__name__): function
        for core in ("core", "_core")
        for module, function in (
            ("multiarray", _reconstruct),
            ("multiarray", multiarray.scalar),
            ("numeric", numeric._frombuffer),  # type: ignore[attr-defined]
        )
    },
}


# The reader in Python, whose steps can be checked; type checkers know the one in C alone.
_Reader: Any = pickle._Unpickler


class _ArrayUnpickler(_Reader):
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {**_Reader.dispatch}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}") from None

    def load_build(self) -> None:
        value, state = self.stack[-2:]
        if isinstance(value, np.dtype):
            _check_dtype(value, state)
        if isinstance(value, np.ndarray):
            _check_array(state)
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _check_dtype(dtype: np.dtype, state: Any) -> None:
    """Refuses to change a dtype into one that NumPy would not have pickled so."""
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
    if order not in ("|", "<", ">", "=") or state != dtype.newbyteorder(order).__reduce__()[2]:
        raise ValueError(f"it describes a {dtype} as {state}")


def _check_array(state: Any) -> None:
    """Refuses fewer objects than the shape of their array has; NumPy itself compares the lengths of bytes alone."""
    _, shape, _, _, content = state
    if isinstance(content, list) and len(content) != math.prod(shape):
        raise ValueError(f"it has {len(content)} objects for an array of shape {shape}")
