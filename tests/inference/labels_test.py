"""Labels of every library: equal ones are one class, and what can be none is refused."""

import datetime
import enum
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from mamlpp_jax.errors import DataError
from mamlpp_jax.inference.labels import (
    decode_classes,
    encode_classes,
    find_classes,
    number_labels,
    read_labels,
)


class Colour(enum.Enum):
    RED = 1


def in_torch(make):
    return lambda: make(pytest.importorskip("torch"))


INTEGERS = [
    lambda: [2, 0, 2],
    lambda: np.array([2, 0, 2]),
    lambda: jnp.array([2, 0, 2]),
    in_torch(lambda torch: torch.tensor([2, 0, 2])),
    in_torch(lambda torch: list(torch.tensor([2, 0, 2]))),
    in_torch(lambda torch: torch.tensor([2.0, 0.0, 2.0], dtype=torch.bfloat16)),
    in_torch(lambda torch: torch.tensor([2.0, 0.0, 2.0], requires_grad=True)),
    lambda: list(jnp.array([2, 0, 2])),
    lambda: [np.array(2), np.int8(0), 2],
    lambda: iter([2, 0, 2]),
    lambda: pd.Series([2, 0, 2], index=[7, 7, 1]),
    lambda: pd.Series([2, 0, 2], dtype="Int64"),
    lambda: pd.Categorical([2, 0, 2]),
    lambda: pd.Index([2, 0, 2]),
]


@pytest.mark.parametrize("make", INTEGERS)
def test_integers_of_every_library(make):
    labels = read_labels(make())
    classes, numbers = find_classes(labels)
    assert labels.dtype.kind in "iuf"
    assert classes.dtype == labels.dtype
    assert (classes.tolist(), numbers.tolist()) == ([0, 2], [1, 0, 1])
    assert numbers.dtype == np.int32
    for other in INTEGERS:
        assert number_labels(read_labels(other()), classes).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ["b", "a", "b"],
        lambda: np.array(["b", "a", "b"]),
        lambda: np.array(["b", "a", "b"], object),
        lambda: np.array(["b", "a", "b"], np.dtypes.StringDType()),
        lambda: pd.Series(["b", "a", "b"], dtype="string"),
        lambda: pd.Series(["b", "a", "b"], dtype="category"),
        lambda: [np.str_("b"), "a", "b"],
    ],
)
def test_strings(make):
    classes, numbers = find_classes(read_labels(make()))
    assert (classes.tolist(), numbers.tolist()) == (["a", "b"], [1, 0, 1])


@pytest.mark.parametrize(
    ("labels", "dtype", "classes"),
    [
        (np.array([3, 1], np.uint8), "uint8", [1, 3]),
        (np.array([0.1, 0.3], np.float32), "float32", np.array([0.1, 0.3], np.float32).tolist()),
        ([True, False], "bool", [False, True]),
        ([1, 2.5], "float64", [1.0, 2.5]),
        ([2**53 + 1, 2.0**53], "object", [2.0**53, 2**53 + 1]),
        (["x", None, "x"], "object", ["x", None]),
        (["1", 1], "object", ["1", 1]),
        (["a\0", "a"], "object", ["a", "a\0"]),
        ([("b", 1), ("a", 2)], "object", [("a", 2), ("b", 1)]),
        ([(1,), (2, 3)], "object", [(1,), (2, 3)]),
        ([pathlib.Path("b"), pathlib.Path("a")], "object", [pathlib.Path("a"), pathlib.Path("b")]),
        ([Colour.RED, None], "object", [Colour.RED, None]),
        (np.array([2, 1], object), "object", [1, 2]),
        (np.array(["2020-01-02", "2020-01-01"], "M8[D]"), "<M8[D]", None),
        ([10**30, 1], "object", [1, 10**30]),
    ],
)
def test_the_dtype_of_the_classes(labels, dtype, classes):
    found = find_classes(read_labels(labels))[0]
    assert found.dtype == np.dtype(dtype)
    if classes is not None:
        assert found.tolist() == classes
        assert [type(label) for label in found.tolist()] == [type(label) for label in classes]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("ab", "a str; give a list"),
        (b"ab", "a bytes"),
        ({"a", "b"}, "a set"),
        ({"a": 1}, "a dict"),
        (None, "a NoneType"),
        (3, "a int"),
        (np.array(3), r"the shape \(\)"),
        (np.zeros((4, 1)), r"the shape \(4, 1\).*ravel"),
        (np.eye(3), "argmax"),
        (pd.DataFrame({"a": [1, 2]}), r"the shape \(2, 1\)"),
        ([1.0, float("nan")], r"labels\[1\] is nan, which equals no label"),
        (np.array([np.nan, 1.0]), r"labels\[0\] is "),
        (pd.Series(["a", None], dtype="string"), r"labels\[1\]"),
        (pd.Series([1, None], dtype="Int64"), r"labels\[1\] is"),
        ([("a", float("nan"))], r"labels\[0\]"),
        (np.array(["NaT"], "M8[D]"), r"labels\[0\]"),
        (np.ma.array([1, 2], mask=[0, 1]), "masked"),
        ([np.zeros(1), np.zeros(1)], r"labels\[0\] has the shape \(1,\)"),
        ([[1], [2]], r"labels\[0\] is not hashable"),
        ([jnp.zeros((2, 2))], r"labels\[0\] has the shape"),
    ],
)
def test_what_can_be_no_label_is_refused(labels, said):
    with pytest.raises(DataError, match=said):
        read_labels(labels)


def test_labels_of_another_sort_than_the_classes_are_refused():
    classes = np.array([0, 1])
    assert number_labels(np.array([1, 5]), classes).tolist() == [1, -1]
    assert number_labels(np.array([5, 6]), classes).tolist() == [-1, -1]
    with pytest.raises(DataError, match=r"labels\[0\] is '0', the classes are such as 0"):
        number_labels(np.array(["0", "1"]), classes)
    narrow = np.array([0.1, 0.3], np.float32)
    assert number_labels(np.array([0.3, 0.1]), narrow).tolist() == [1, 0]
    assert number_labels(narrow, np.array([0.1, 0.3])).tolist() == [0, 1]


@pytest.mark.parametrize(
    "labels",
    [
        ["a", "é字"],
        [3, 1],
        [0.1, -0.0, float("inf"), 5e-324],
        [True, False],
        [None, True, 1.5, 10**30, "1", ("a", (1, None)), ("a", (1.0, "x")), ()],
        np.array([0.1, 0.3], np.float32),
        np.array([1, 200], np.uint8),
        np.array([2**64 - 1, 1], np.uint64),
        np.array(["a", "bb"], object),
    ],
)
def test_labels_come_back_from_json_with_their_type(labels):
    classes = find_classes(read_labels(labels))[0]
    again = decode_classes(json.loads(json.dumps(encode_classes(classes))))
    assert (again.dtype, again.tolist()) == (classes.dtype, classes.tolist())
    assert list(map(repr, again)) == list(map(repr, classes))


@pytest.mark.parametrize(
    "labels",
    [
        [Colour.RED, None],
        [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)],
        [b"a", b"b"],
        ["a", "\ud800"],
        [10**400, 1],
        [("a", frozenset()), 1],
        np.array(["2020-01-01", "2020-01-02"], "M8[D]"),
        [1j, 2j],
    ],
)
def test_other_labels_are_not_for_json(labels):
    with pytest.raises(DataError, match="the label"):
        encode_classes(find_classes(read_labels(labels))[0])


@pytest.mark.parametrize(
    "stored",
    [
        {"dtype": "<i8", "classes": [1]},
        {"dtype": "<i8", "classes": [1, 1]},
        {"dtype": "<i8", "classes": [1, "a"]},
        {"dtype": "<i8", "classes": [1, 2.5]},
        {"dtype": "<U1", "classes": ["a", "bb"]},
        {"dtype": "|V8", "classes": [1, 2]},
        {"dtype": "no", "classes": [1, 2]},
        {"dtype": "|O", "classes": [1, [2]]},
        {"dtype": "|O", "classes": [1, {"tuple": 3}]},
        {"dtype": "|O", "classes": [1, {"float": "3"}]},
        {"dtype": "|O", "classes": [1, {}]},
        {"dtype": "|O", "classes": 5},
        {"dtype": 3, "classes": [1, 2]},
        {"classes": [1, 2]},
    ],
)
def test_damaged_labels_are_refused(stored):
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode_classes(stored)
