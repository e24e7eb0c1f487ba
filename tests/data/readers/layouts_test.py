"""Layouts of image sets as people have them: each is read, or answered with what to type."""

import csv
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from mamlpp_jax.data.readers.layouts import find_layout
from mamlpp_jax.errors import DataError
from tests.helpers import small_sources

SPLITS = ("train", "val", "test")


def image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)


def folders(root, *names, images=3):
    for name in names:
        for number in range(images):
            image(root / name / f"{number}.png", number)
    return root


def in_splits(root, *names, inside=""):
    for split, name in zip(SPLITS, names, strict=True):
        folders(root, *(f"{name}/{inside}{split}{k}" for k in range(2)))
    return root


def tables(root, images, where="", columns=("filename", "label"), names=SPLITS, extra=""):
    """A list per split of two classes of three images in `images`."""
    for split, name in zip(SPLITS, names, strict=True):
        rows = []
        for label in (f"{split}0", f"{split}1"):
            for number in range(3):
                file = f"{label}_{number}.jpg"
                image(root / images / file)
                rows.append([f"{extra}{file}", label])
        path = root / where / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
    return root


def classes(layout):
    return {split: list(of) for split, of in layout.listing.items()}


ABC = {"": ["a", "b", "c"]}
BY_SPLIT = {split: [f"{split}0", f"{split}1"] for split in SPLITS}

LAYOUTS = {
    "an unpacked archive": (lambda root: folders(root, "x/a", "x/b", "x/c"), ABC),
    "two wrappers": (lambda root: folders(root, "x/y/a", "x/y/b", "x/y/c"), ABC),
    "beside __MACOSX": (lambda root: folders(root, "__MACOSX/x", "x/a", "x/b", "x/c"), ABC),
    "CUB": (
        lambda root: folders(root, "c/images/a", "c/images/b", "c/images/c", "c/segmentations/a"),
        ABC,
    ),
    "groups": (
        lambda root: folders(root, "A/c1", "A/c2", "B/c1"),
        {"": ["A/c1", "A/c2", "B/c1"]},
    ),
    "one group": (lambda root: folders(root, "A/a", "A/b", "A/c"), ABC),
    "validation": (lambda root: in_splits(root, "train", "validation", "test"), BY_SPLIT),
    "capitals": (lambda root: in_splits(root, "Train", "Valid", "Test"), BY_SPLIT),
    "base and novel": (lambda root: in_splits(root, "base", "val", "novel"), BY_SPLIT),
    "meta-train": (lambda root: in_splits(root, "meta-train", "meta_val", "metatest"), BY_SPLIT),
    "wrapped splits": (lambda root: in_splits(root / "x", *SPLITS, inside="images/"), BY_SPLIT),
    "lists": (lambda root: tables(root, "images"), BY_SPLIT),
    "lists in a folder": (
        lambda root: tables(root, "images", "split", names=("base", "val", "novel")),
        BY_SPLIT,
    ),
    "lists with folders": (lambda root: tables(root, "images/some", extra="some/"), BY_SPLIT),
    "lists with other columns": (
        lambda root: tables(root, "", columns=("Image", "Class")),
        BY_SPLIT,
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read(name, tmp_path):
    make, expected = LAYOUTS[name]
    layout = find_layout(make(tmp_path / "own"))
    assert classes(layout) == expected
    for split in expected:
        for class_name, loaders in layout.read(split):
            assert [loader().size for loader in loaders] == [(4, 4)] * 3, class_name


def test_folders_that_are_not_used_are_named_and_nothing_is_to_be_removed(tmp_path, caplog):
    root = folders(tmp_path / "own", "a", "b", "c")
    (root / "empty").mkdir()
    (root / "phone").mkdir()
    (root / "phone" / "1.heic").write_bytes(b"x")
    assert classes(find_layout(root)) == ABC
    assert "2 folders have no image (.avif" in caplog.text
    assert "empty, phone" in caplog.text
    assert "emove" not in caplog.text


def test_what_macos_packs_beside_lists_is_no_list(tmp_path):
    root = tables(tmp_path / "own", "images")
    (root / "__MACOSX").mkdir()
    for split in SPLITS:
        (root / "__MACOSX" / f"._{split}.csv").write_bytes(b"\0\xff")
    assert classes(find_layout(root)) == BY_SPLIT


def test_one_list_without_splits(tmp_path):
    root = tmp_path / "own"
    for number in range(6):
        image(root / "images" / f"{number}.png")
    rows = "\n".join(f"{number}.png,{'ab'[number % 2]}" for number in range(6))
    (root / "labels.csv").write_text(f"file,label\n{rows}")
    layout = find_layout(root)
    assert layout.listing == {
        "": {"a": ["0.png", "2.png", "4.png"], "b": ["1.png", "3.png", "5.png"]}
    }


def test_names_that_repeat_from_class_to_class(tmp_path):
    root = tmp_path / "own"
    for label, split in enumerate(SPLITS):
        for k in range(2):
            image(root / "images" / f"{split}{k}" / "1.png", 10 * label + k)
        (root / f"{split}.csv").write_text(
            f"filename,label\n1.png,{split}0\n{split}1/1.png,{split}1"
        )
    layout = find_layout(root)
    values = [
        load().getpixel((0, 0))[0]
        for split in SPLITS
        for _, of in layout.read(split)
        for load in of
    ]
    assert values == [0, 1, 10, 11, 20, 21]


def test_lists_of_the_classes_of_splits(tmp_path, caplog):
    root = tmp_path / "own"
    folders(root, *(f"cifar100/data/{c}" for c in "abcdef"))
    splits = root / "cifar100" / "splits" / "bertinetto"
    splits.mkdir(parents=True)
    for split, names in zip(SPLITS, ("ab", "cd", "e"), strict=True):
        (splits / f"{split}.txt").write_text("\n".join(names) + "\n")
    assert classes(find_layout(root)) == {"train": ["a", "b"], "val": ["c", "d"], "test": ["e"]}
    assert "1 entries are not used, such as f" in caplog.text
    (splits / "val.txt").write_text("zebra\n")
    with pytest.raises(DataError, match=r"val\.txt lists 'zebra', which is no folder of images"):
        find_layout(root)


def some_splits(root):
    in_splits(root, *SPLITS)
    shutil.rmtree(root / "val")


def shared_class(root):
    folders(in_splits(root, *SPLITS), "test/train0")


def loose(root):
    image(root / "a.png")


def archive(root):
    root.mkdir()
    (root / "a.zip").write_bytes(b"x")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (some_splits, r"folders test, train only.* use data\.manual_dir=.*own/train\."),
        (
            shared_class,
            r"class train0 is in .*own/train and in .*own/test.*data\.manual_dir=.*own/train\.",
        ),
        (loose, r"own has no class folders.*It has 1 images outside of any"),
        (archive, r"Unpack a\.zip first"),
    ],
)
def test_another_layout_is_answered_with_what_to_type(tmp_path, make, said):
    make(tmp_path / "own")
    with pytest.raises(DataError, match=said) as caught:
        find_layout(tmp_path / "own")
    assert "emove" not in str(caught.value)


def test_pickles_of_arrays_and_labels(tmp_path):
    layout = find_layout(small_sources.labelled_pickles(tmp_path / "raw"))
    assert classes(layout) == {split: [f"{split}-007", f"{split}-008"] for split in SPLITS}
    (_, first), _ = layout.read("test")
    for number, load in zip((0, 2, 4), first, strict=True):
        np.testing.assert_array_equal(load(), small_sources.mini_pixels("test", 0, number))


@pytest.mark.parametrize("column", [False, True])
def test_pickles_of_encoded_images(tmp_path, column):
    layout = find_layout(small_sources.encoded_pickles(tmp_path / "raw", column))
    assert classes(layout)["val"] == ["val-000 cat", "val-001 dog"]
    _, (_, second) = layout.read("val")
    for number, load in zip((1, 3, 5), second, strict=True):
        np.testing.assert_array_equal(load(), small_sources.mini_pixels("val", 1, number))


def test_a_pickle_that_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("mamlpp_jax.data.readers.pickle_layout.host_memory", lambda: 10)
    for split in SPLITS:
        (tmp_path / f"{split}_images_png.pkl").write_bytes(b"not even a pickle")
        (tmp_path / f"{split}_labels.pkl").write_bytes(
            pickle.dumps({"label_specific": np.zeros(1, int)})
        )
    with pytest.raises(
        DataError, match=r"train_images_png\.pkl has 17 bytes.* machine has 10 bytes"
    ):
        find_layout(tmp_path)
