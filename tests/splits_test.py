"""The division of classes into training, validation and test classes."""

import numpy as np
import pytest

from mamlpp_jax.data.splits import split_classes
from mamlpp_jax.errors import ConfigError

COUNTS = {"train": 1150, "val": 50, "test": 423}
EXPECTED = {"train": [11, 3, 2, 1, 8, 6], "val": [0, 7], "test": [4, 10, 5, 9]}


def test_splits_are_disjoint_and_have_the_asked_sizes():
    split = split_classes(1623, COUNTS, seed=0)
    assert {name: len(part) for name, part in split.items()} == COUNTS
    assert sorted(np.concatenate(list(split.values()))) == list(range(1623))
    assert all(part.dtype == np.int32 for part in split.values())


def test_fewer_classes_than_there_are():
    split = split_classes(10, (3, 0, 2), seed=4)
    assert [len(split[name]) for name in ("train", "val", "test")] == [3, 0, 2]
    assert len(set(np.concatenate(list(split.values())).tolist())) == 5


def test_a_sequence_means_the_same_as_a_mapping():
    by_order, by_name = split_classes(1623, (1150, 50, 423), 7), split_classes(1623, COUNTS, 7)
    for name in COUNTS:
        np.testing.assert_array_equal(by_order[name], by_name[name])


def test_the_seed_decides():
    again = split_classes(1623, COUNTS, seed=0)["test"]
    np.testing.assert_array_equal(split_classes(1623, COUNTS, seed=0)["test"], again)
    assert set(split_classes(1623, COUNTS, seed=1)["test"].tolist()) != set(again.tolist())


def test_the_order_is_that_of_raw_bits_and_never_changes():
    # Written down once: results of different machines and NumPy versions must be comparable.
    split = split_classes(12, (6, 2, 4), seed=0)
    assert {name: part.tolist() for name, part in split.items()} == EXPECTED


def test_the_split_is_a_shuffle():
    # Neighbours in name order share an alphabet: a split by order would separate alphabets.
    split = split_classes(1000, (500, 0, 500), seed=0)
    assert 200 < (split["train"] < 500).sum() < 300


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train": 8, "val": 2, "test": 1}, "data.train_classes=8 .* = 11 classes, .* has 10"),
        ({"train": 8, "val": -1, "test": 1}, "data.val_classes is -1"),
        ({"train": 8, "val": 1}, "data.test_classes"),
        ((8, 1), "data.train_classes, data.val_classes, data.test_classes"),
        ((5, 2, 1, 1), "data.train_classes, data.val_classes, data.test_classes"),
        ((5, 2.5, 1), "must be integers"),
    ],
)
def test_bad_counts_are_refused_by_name(counts, message):
    with pytest.raises(ConfigError, match=message):
        split_classes(10, counts, seed=0)


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match=r"data\.seed is -1"):
        split_classes(10, (5, 2, 3), seed=-1)
