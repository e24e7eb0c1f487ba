"""The form of a data set, its file and its fingerprint."""

import dataclasses
import stat

import numpy as np
import pytest

from mamlpp_jax.data import dataset as dataset_lib
from mamlpp_jax.data.dataset import Dataset, fingerprint
from mamlpp_jax.errors import DataError
from tests.helpers.small_runs import patterns
from tests.helpers.small_sources import DATASET_DAMAGES, damage_dataset_file, same, toy_dataset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((5, 4, 4, 1), np.float32)}, r"float32 \[5, 4, 4, 1\].*uint8"),
        ({"images": np.zeros((5, 4, 4), np.uint8)}, r"\[5, 4, 4\].*\[T, H, W, C\]"),
        ({"images": np.zeros((5, 4, 4, 2), np.uint8)}, "C must be 1 or 3"),
        ({"images": [1, 2]}, "of type list"),
        ({"images": np.zeros((6, 4, 4, 1), np.uint8)}, "sum 5.*6 images"),
        ({"class_sizes": np.array([2, 3])}, "int64.*int32"),
        ({"class_sizes": np.array([5, 0], np.int32)}, "smallest 0"),
        ({"class_sizes": np.array([2, 2, 1], np.int32)}, "2 class_names but 3 class_sizes"),
        ({"class_names": ("b", "a")}, "sorted"),
        ({"class_names": ("a", "a")}, "unique"),
        ({"class_names": ["a", "b"]}, "class_names"),
        ({"class_splits": ("train",)}, "class_splits"),
        ({"class_splits": ("train", "dev")}, "class_splits.*train, val, test"),
    ],
)
def test_inconsistent_parts_are_refused(changes, message):
    good = toy_dataset()
    parts = {
        "name": good.name,
        "images": good.images,
        "class_names": good.class_names,
        "class_sizes": good.class_sizes,
    }
    with pytest.raises(DataError, match=rf"'toy'.*{message}"):
        Dataset(**(parts | changes))


def test_a_saved_data_set_is_loaded(tmp_path):
    path = tmp_path / "toy.npz"
    dataset_lib.save(toy_dataset(), path)
    assert same(dataset_lib.load(path), toy_dataset())
    assert dataset_lib.load(path).num_classes == 2
    dataset_lib.save(toy_dataset(fill=7), path)
    assert same(dataset_lib.load(path), toy_dataset(fill=7))
    assert [p.name for p in tmp_path.iterdir()] == ["toy.npz"]


def test_published_splits_are_saved(tmp_path):
    split = dataclasses.replace(toy_dataset(), class_splits=("val", "test"))
    dataset_lib.save(split, tmp_path / "toy.npz")
    assert dataset_lib.load(tmp_path / "toy.npz").class_splits == ("val", "test")


def test_names_of_other_scripts_survive(tmp_path):
    named = dataclasses.replace(toy_dataset(), name="größe", class_names=("a/b", "ж"))
    dataset_lib.save(named, tmp_path / "x.npz")
    assert same(dataset_lib.load(tmp_path / "x.npz"), named)


def test_a_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "toy.npz"
    dataset_lib.save(toy_dataset(), path)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        dataset_lib.save(toy_dataset(fill=1), path)
    monkeypatch.undo()
    assert same(dataset_lib.load(path), toy_dataset())
    assert [p.name for p in tmp_path.iterdir()] == ["toy.npz"]


def test_a_saved_file_is_as_readable_as_any_other(tmp_path):
    dataset_lib.save(toy_dataset(), tmp_path / "toy.npz")
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("toy.npz", "plain")}
    assert len(modes) == 1


@pytest.mark.parametrize("kind", [*DATASET_DAMAGES, "folder"])
def test_a_broken_file_is_named(tmp_path, kind):
    path = tmp_path / "toy.npz"
    dataset_lib.save(toy_dataset(side=8), path)
    damage_dataset_file(path, kind)
    with pytest.raises(DataError, match=r"toy\.npz is broken"):
        dataset_lib.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"toy\.npz does not exist"):
        dataset_lib.load(tmp_path / "toy.npz")


def with_one_image_in_another_class():
    data = patterns()
    sizes = data.class_sizes.copy()
    sizes[:2] += np.array([1, -1], np.int32)
    return dataclasses.replace(data, class_sizes=sizes)


def with_another_pixel():
    data = patterns()
    data.images[-1, -1, -1] ^= 255
    return data


OTHERS = {
    "pixel": with_another_pixel,
    "sizes": with_one_image_in_another_class,
    "name": lambda: dataclasses.replace(patterns(), class_names=("!", *patterns().class_names[1:])),
    "splits": lambda: dataclasses.replace(
        patterns(), class_splits=("train",) * patterns().num_classes
    ),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_any_difference_changes_the_fingerprint(other):
    assert fingerprint(other()) != fingerprint(patterns())


def test_the_name_of_a_data_set_does_not_change_the_fingerprint():
    assert fingerprint(dataclasses.replace(patterns(), name="copied")) == fingerprint(patterns())
