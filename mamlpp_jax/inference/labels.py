"""From labels of any library to classes; equal labels are one class."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from mamlpp_jax.errors import DataError

_STORED_KINDS = "biufUO"  # booleans, numbers, strings, objects


def to_numpy(values: Any) -> Any:
    """A torch tensor as a NumPy array, on whatever device it lies; anything else as it is."""
    if not is_tensor(values):
        return values
    values = values.detach().cpu()
    return (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()


def is_tensor(values: Any) -> bool:
    """True for a torch tensor; torch is not imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def read_labels(labels: Any) -> np.ndarray:
    """Labels as an array [n] of their dtype, or of objects where no other dtype holds them as they are.

    Args:
        labels: an array of any library, a pandas column, or an iterable of hashable labels and arrays without axes.

    Raises:
        DataError: they are no sequence of labels, or one is missing (NaN), not hashable or an array.
    """
    try:
        labels = to_numpy(labels)
        if hasattr(labels, "__array__"):
            array = np.asarray(labels)
            if array.ndim != 1:
                raise DataError(
                    f"The labels have the shape {array.shape}; give one label per image, [n]: labels.ravel() of a "
                    "column, labels.argmax(axis=1) of one-hot rows."
                )
            if np.ma.is_masked(labels):
                raise DataError("Labels are masked; leave their images out.")
            is_plain = array.dtype.kind not in "OTV"
            as_objects = isinstance(labels, np.ndarray) and array.dtype.kind == "O"
            items = list(array) if is_plain else array.tolist()
        elif isinstance(labels, Iterable) and not isinstance(labels, (str, bytes, dict, set)):
            is_plain, as_objects, items = False, False, list(labels)
        else:
            raise DataError(
                f"The labels are a {type(labels).__name__}; give a list or an array with one label per image."
            )
    except TypeError as error:  # a dtype that NumPy lacks
        raise DataError(f"The labels cannot be read: {error}. Use numbers or strings.") from error
    items = [_plain(item, f"labels[{n}]") for n, item in enumerate(items)]
    if is_plain:
        return array
    return _objects(items) if as_objects else _natural(items)


def find_classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct labels [K], sorted where they compare, else by first appearance; and their numbers, int32 [n]."""
    if labels.dtype.kind != "O":
        classes = np.unique(labels)
    else:
        distinct = list(dict.fromkeys(labels))
        with contextlib.suppress(TypeError):
            distinct = sorted(distinct)
        classes = _objects(distinct)
    return classes, number_labels(labels, classes)


def number_labels(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The numbers of labels, int32 [n]; -1 for one that is no class.

    Raises:
        DataError: labels and classes are of kinds that are never equal.
    """
    if labels.dtype.kind == classes.dtype.kind == "f":  # 0.1 of one precision is 0.1 of another
        narrow = min(labels.dtype, classes.dtype, key=lambda dtype: dtype.itemsize)
        labels, classes = labels.astype(narrow), classes.astype(narrow)
    numbers = {label: number for number, label in enumerate(classes.tolist())}
    indices = np.array([numbers.get(label, -1) for label in labels.tolist()], np.int32)
    types = [{type(label) for label in array.tolist()} for array in (labels, classes)]
    if len(indices) and indices.max() < 0 and types[0].isdisjoint(types[1]):
        raise DataError(
            f"No label is one of the classes: labels[0] is {labels.tolist()[0]!r}, the classes are such as "
            f"{classes.tolist()[0]!r}; use the labels of `fit`."
        )
    return indices


def _plain(item: Any, name: str) -> Any:
    """The value of an array without axes; anything else as it is, once it can tell classes apart."""
    item = to_numpy(item)
    if hasattr(item, "shape") and hasattr(item, "dtype"):
        value = np.asarray(item)
        if value.shape:
            raise DataError(f"{name} has the shape {value.shape}; a label must be a single value.")
        item = value.item() if value.dtype.kind in "biufcUSO" else value[()]
    if _is_missing(item):
        raise DataError(
            f"{name} is {item!r}, which equals no label, itself neither; leave its image out, or name the class."
        )
    try:
        hash(item)
    except TypeError as error:
        raise DataError(f"{name} is not hashable ({error}); use strings or numbers.") from error
    return item


def _is_missing(item: Any) -> bool:
    if isinstance(item, tuple):
        return any(map(_is_missing, item))
    try:
        return bool(item != item)
    except (TypeError, ValueError):  # pandas.NA
        return True


def _natural(items: list[Any]) -> np.ndarray:
    """The array that NumPy makes of a list, if its elements equal those of the list."""
    try:
        array = np.array(items)
        if array.shape == (len(items),) and all(map(_same, array.tolist(), items)):
            return array
    except (ValueError, TypeError, OverflowError):
        pass
    return _objects(items)


def _same(element: Any, item: Any) -> bool:
    return bool(element == item)


def _objects(items: list[Any]) -> np.ndarray:
    """One element per item, also where items are sequences."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


def encode_classes(classes: np.ndarray) -> dict[str, Any]:
    """Labels as JSON that `decode_classes` gives back with their types.

    Raises:
        DataError: a label is none of those that JSON can hold; it is named.
    """
    if classes.dtype.kind not in _STORED_KINDS or classes.dtype == np.longdouble:
        raise DataError(f"the label {classes[0]!r} is of the dtype {classes.dtype}")
    return {"dtype": classes.dtype.str, "classes": [_encode(c) for c in classes.tolist()]}


def decode_classes(stored: dict[str, Any]) -> np.ndarray:
    """The labels of `encode_classes`, [K].

    Raises:
        ValueError: they are no distinct labels of that dtype, or fewer than two.
    """
    dtype, items = np.dtype(stored["dtype"]), [_decode(item) for item in stored["classes"]]
    if dtype.kind not in _STORED_KINDS:
        raise ValueError(f"labels are of the dtype {dtype}")
    if len(items) < 2 or len(set(items)) < len(items):
        raise ValueError("the classes must be two or more, all different")
    array = _objects(items) if dtype.kind == "O" else np.array(items, dtype)
    if array.tolist() != items:
        raise ValueError(f"a label does not fit the dtype {dtype}")
    return array


def _encode(label: Any, depth: int = 0) -> Any:
    if type(label) is tuple and depth < 4:
        return {"tuple": [_encode(item, depth + 1) for item in label]}
    if type(label) is float and not np.isfinite(label):
        return {"float": repr(label)}
    fits = {
        bool: lambda: True,
        type(None): lambda: True,
        float: lambda: True,
        int: lambda: abs(label) < 10**300,
        str: lambda: label.encode(errors="replace").decode() == label,  # no half characters
    }
    if type(label) in fits and fits[type(label)]():
        return label
    raise DataError(f"the label {label!r} is a {type(label).__name__} that JSON does not hold")


def _decode(stored: Any) -> Any:
    if isinstance(stored, dict):
        ((tag, value),) = stored.items()
        return tuple(map(_decode, value)) if tag == "tuple" else _INFINITIES[tag, value]
    if isinstance(stored, list):
        raise ValueError("a label is a list")
    return stored


_INFINITIES = {("float", repr(value)): value for value in (float("inf"), float("-inf"))}
