"""The division of classes into training, validation and test classes."""

import types

import numpy as np
import pytest

from mamlpp_jax.data.dataset import SPLITS, Dataset
from mamlpp_jax.data.splits import split_classes, split_dataset
from mamlpp_jax.errors import ConfigError, DataError
from tests.helpers.small_sources import toy_dataset

COUNTS = {"train": 1150, "val": 50, "test": 423}
EXPECTED = {"train": [11, 3, 2, 1, 8, 6], "val": [0, 7], "test": [4, 10, 5, 9]}


def counts_of(*counts):
    return dict(zip(SPLITS, counts, strict=True))


def test_splits_are_disjoint_and_have_the_asked_sizes():
    split = split_classes(1623, COUNTS, seed=0)
    assert {name: len(part) for name, part in split.items()} == COUNTS
    assert sorted(np.concatenate(list(split.values()))) == list(range(1623))
    assert all(part.dtype == np.int32 for part in split.values())


def test_fewer_classes_than_there_are():
    split = split_classes(10, counts_of(3, 0, 2), seed=4)
    assert [len(split[name]) for name in ("train", "val", "test")] == [3, 0, 2]
    assert len(set(np.concatenate(list(split.values())).tolist())) == 5


def test_the_seed_decides():
    again = split_classes(1623, COUNTS, seed=0)["test"]
    np.testing.assert_array_equal(split_classes(1623, COUNTS, seed=0)["test"], again)
    assert set(split_classes(1623, COUNTS, seed=1)["test"].tolist()) != set(again.tolist())


def test_the_order_is_that_of_raw_bits_and_never_changes():
    # Written down once: results of different machines and NumPy versions must be comparable.
    split = split_classes(12, counts_of(6, 2, 4), seed=0)
    assert {name: part.tolist() for name, part in split.items()} == EXPECTED


def test_the_split_is_a_shuffle():
    # Neighbours in name order share an alphabet: a split by order would separate alphabets.
    split = split_classes(1000, counts_of(500, 0, 500), seed=0)
    assert 200 < (split["train"] < 500).sum() < 300


def test_more_classes_than_there_are_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"data\.train_classes=8 .* = 11 classes, .* has 10"):
        split_classes(10, counts_of(8, 2, 1), seed=0)


def named(classes=10, splits=()):
    images = np.zeros((classes, 2, 2, 1), np.uint8)
    names = tuple(f"class {i}, the {i}th" for i in range(classes))
    return Dataset("own", images, names, np.ones(classes, np.int32), splits)


def data_config(**changes):
    fields = {
        "seed": 0,
        "train_classes": 0,
        "val_classes": 0,
        "test_classes": 0,
        "split_fractions": "0.64,0.16,0.2",
        "split_file": "",
    }
    return types.SimpleNamespace(**(fields | changes))


def sizes(splits):
    return [len(splits[split]) for split in SPLITS]


def test_fractions_divide_all_classes():
    splits = split_dataset(named(), data_config())
    assert sizes(splits) == [6, 2, 2]
    assert sorted(np.concatenate(list(splits.values()))) == list(range(10))
    assert sizes(split_dataset(named(), data_config(split_fractions="0.5,0.1,0.1"))) == [5, 1, 1]
    other = split_dataset(named(), data_config(seed=1))
    assert any(sorted(other[s]) != sorted(splits[s]) for s in SPLITS)


def test_fractions_that_leave_a_split_empty_and_numbers_with_a_gap_are_refused():
    with pytest.raises(ConfigError, match=r"split_fractions gives the val split none of the 3"):
        split_dataset(named(3), data_config())
    with pytest.raises(ConfigError, match=r"data\.test_classes is 0, but the other splits"):
        split_dataset(named(), data_config(train_classes=3, val_classes=3))


@pytest.mark.parametrize(
    ("classes", "way", "rotations", "expected"),
    [
        (100, 5, {}, [64, 16, 20]),  # the usual fractions are enough
        (30, 5, {}, [19, 5, 6]),
        (25, 5, {}, [15, 5, 5]),
        (15, 5, {}, [5, 5, 5]),
        (21, 7, {}, [7, 7, 7]),
        (14, 5, {}, [6, 4, 4]),  # not enough: as many for each as there are
        (12, 5, {"train": 4, "val": 4, "test": 4}, [8, 2, 2]),
        (12, 12, {"train": 4}, [2, 5, 5]),
        (3, 5, {}, [1, 1, 1]),
    ],
)
def test_where_no_fractions_are_given_every_split_has_enough_classes(
    classes, way, rotations, expected
):
    config = data_config(split_fractions="")
    splits = split_dataset(toy_dataset(sizes=(1,) * classes), config, way, rotations)
    assert sizes(splits) == expected
    assert sorted(np.concatenate(list(splits.values()))) == list(range(classes))


def test_fractions_that_are_given_are_never_changed():
    assert sizes(split_dataset(named(), data_config(), way=3)) == [6, 2, 2]


def test_two_classes_cannot_be_split():
    with pytest.raises(ConfigError, match=r"has 2 class\(es\), .* needs three at least"):
        split_dataset(named(2), data_config(split_fractions=""), way=2)


def test_what_was_chosen_before_is_taken_again_where_no_fractions_are_given():
    names = named().class_names
    recorded = {"train": [names[7], names[3]], "val": [names[0]], "test": [names[1], names[9]]}
    splits = split_dataset(named(), data_config(split_fractions=""), 5, {}, recorded)
    assert [splits[split].tolist() for split in SPLITS] == [[7, 3], [0], [1, 9]]
    assert sizes(split_dataset(named(), data_config(), 5, {}, recorded)) == [6, 2, 2]
    for broken in (
        {**recorded, "val": ["unknown"]},
        {**recorded, "val": []},
        {"train": recorded["train"]},
    ):
        again = split_dataset(named(), data_config(split_fractions=""), 3, {}, broken)
        assert sizes(again) == [4, 3, 3]


def test_published_splits_are_used_whole_or_in_part():
    data = named(9, ("train", "test", "val") * 3)
    splits = split_dataset(data, data_config())
    assert {split: sorted(members) for split, members in splits.items()} == {
        "train": [0, 3, 6],
        "val": [2, 5, 8],
        "test": [1, 4, 7],
    }
    part = split_dataset(data, data_config(train_classes=2))
    assert sizes(part) == [2, 3, 3]
    assert set(part["train"]) < set(splits["train"])
    with pytest.raises(ConfigError, match=r"train_classes is 4, but .* the train split has 3"):
        split_dataset(data, data_config(train_classes=4))


def write_list(tmp_path, *lines):
    path = tmp_path / "split.csv"
    path.write_text("\n".join(("class,split", *lines)) + "\n")
    return str(path)


def test_a_list_file_decides_and_leaves_classes_out(tmp_path):
    path = write_list(
        tmp_path, '"class 3, the 3th",train', '"class 0, the 0th",val ', '"class 9, the 9th",test'
    )
    for data in (named(), named(10, ("train",) * 4 + ("val",) * 3 + ("test",) * 3)):
        splits = split_dataset(data, data_config(split_file=path))
        assert [splits[split].tolist() for split in SPLITS] == [[3], [0], [9]]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['"class 3, the 3th",learn'], "'class 3, the 3th,learn'"),
        (['"class 30",train'], "'class 30,train'"),
        (["class 3, the 3th,train"], "a class of own, such as 'class 0, the 0th'"),
        (['"class 3, the 3th",train'] * 2, "no class may be listed twice"),
    ],
)
def test_a_broken_list_file_is_named(tmp_path, lines, said):
    with pytest.raises(DataError, match=said):
        split_dataset(named(), data_config(split_file=write_list(tmp_path, *lines)))


def test_a_list_file_that_is_missing_headless_or_partial_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        split_dataset(named(), data_config(split_file=str(tmp_path / "none.csv")))
    (tmp_path / "split.csv").write_text("")
    with pytest.raises(DataError, match=r"split\.csv must begin with the line 'class,split'"):
        split_dataset(named(), data_config(split_file=str(tmp_path / "split.csv")))
    path = write_list(tmp_path, '"class 3, the 3th",train', '"class 0, the 0th",val')
    with pytest.raises(ConfigError, match=r"split\.csv, the test split has no classes"):
        split_dataset(named(), data_config(split_file=path))
