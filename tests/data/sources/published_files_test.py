"""The forms of mini-ImageNet on disk, whole and damaged."""

import os
import pickle
import shutil
import zipfile
from functools import partial

import numpy as np
import pytest

from mamlpp_jax.data.sources.published import published_layout
from mamlpp_jax.errors import DataError
from tests.helpers import small_sources

FORMS = small_sources.MINI_FORMS
find_layout = partial(published_layout, "mini_imagenet")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    small_sources.shrink_mini_imagenet(monkeypatch)


def load(folder):
    """Every image of a folder: pixels by split, class and name."""
    layout, found = find_layout(folder), {}
    for split, classes in layout.listing.items():
        for class_name, loaders in layout.read(split):
            for name, loader in zip(classes[class_name], loaders, strict=True):
                found[split, class_name, name] = np.asarray(loader())
    return found


@pytest.mark.parametrize("form", FORMS)
def test_images_are_listed_and_loaded_by_split_and_class(tmp_path, form):
    found = load(FORMS[form](tmp_path / "raw"))
    expected = list(small_sources.mini_examples())
    assert len(found) == len(expected)
    # Only pickles do not know the names of their images.
    keys = (
        found
        if form == "pickles"
        else [
            (split, label, f"{label}/{name}" if form == "folders" else name)
            for split, label, name, _ in expected
        ]
    )
    for key, (split, label, _, pixels) in zip(keys, expected, strict=True):
        assert key[:2] == (split, label)
        np.testing.assert_array_equal(found[key], pixels)


def test_python_2_pickles_are_read(tmp_path):
    folder = FORMS["pickles"](tmp_path / "raw", protocol=2)
    path = folder / "mini-imagenet-cache-val.pkl"
    content = pickle.loads(path.read_bytes())
    content = {b"image_data": content["image_data"], b"class_dict": content["class_dict"]}
    path.write_bytes(pickle.dumps(content, protocol=2))
    assert len(load(folder)) == 54


def test_unused_and_repeated_entries_are_reported(tmp_path, caplog):
    folder = FORMS["zips"](tmp_path / "raw")
    with zipfile.ZipFile(folder / "images_c.zip", "w") as archive:
        archive.writestr("images/stray.jpg", b"unread")
        archive.writestr("images/n0000000000000000.png", b"unread: the first of a name is used")
        archive.writestr("__MACOSX/images/x.jpg", b"")
    with (folder / "val.csv").open("a") as file:
        file.write("n1000000000000000.png,n10000000\r\n")
    load(folder)
    text = caplog.text
    assert "1 entries are not used, such as stray.jpg" in text
    assert "images_c.zip:images/n0000000000000000.png; without its class" in text
    assert "val.csv lists 1 images twice" in text


def csv_line(folder, split, old, new):
    path = folder / f"{split}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def remove_csv(folder):
    (folder / "val.csv").unlink()


def other_header(folder):
    csv_line(folder, "train", "filename,label", "a,b")


def relabelled(folder):
    csv_line(folder, "train", "n0000000000000000.png,n00000000", "n0000000000000000.png,n00000001")


def not_in_archives(folder):
    csv_line(folder, "test", "n2000000000000003.png,", "n2000000000000093.png,")


def shared_class(folder):
    csv_text = (folder / "val.csv").read_text().replace(",n10000000", ",n00000000")
    (folder / "val.csv").write_text(csv_text)


def climbing_csv(folder):
    csv_line(folder, "test", "n2000000000000003.png,", "../n2000000000000003.png,")


def binary_csv(folder):
    (folder / "test.csv").write_bytes(b"\xff\xfe\x00\x01")


def climbing_zip(folder):
    with zipfile.ZipFile(folder / "images_c.zip", "w") as archive:
        archive.writestr("../evil.jpg", b"x")


def truncated_zip(folder):
    path = folder / "images_b.zip"
    path.write_bytes(path.read_bytes()[:-100])


def corrupt_image(folder):
    path = folder / "images_c.zip"
    with zipfile.ZipFile(folder / "images_a.zip") as old, zipfile.ZipFile(path, "w") as new:
        for number, name in enumerate(old.namelist()):
            new.writestr(name, old.read(name)[: 60 if number == 3 else None])
    path.rename(folder / "images_a.zip")


def no_archives(folder):
    for path in folder.glob("*.zip"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            remove_csv,
            r"has test\.csv, train\.csv; lists and pickles must be there for all of train",
        ),
        (other_header, r"train\.csv.* begin with the line 'filename,label'"),
        (relabelled, r"train\.csv has 5 images of class n00000000; every class must have 6"),
        (not_in_archives, r"test\.csv lists n2000000000000093\.png of class n20000000"),
        (shared_class, r"class n00000000 is in .*train\.csv and in .*val\.csv"),
        (climbing_csv, r"test\.csv lists \.\./n2.*is in no folder"),
        (binary_csv, r"test\.csv cannot be read"),
        (climbing_zip, r"images_c\.zip has the member '\.\./evil\.jpg'"),
        (truncated_zip, r"images_b\.zip is truncated"),
        (corrupt_image, r"Cannot decode .*images_a\.zip:images/n0000000100000000\.png"),
        (no_archives, r"neither images nor a zip"),
    ],
)
def test_damage_of_csv_files_and_archives_is_named(tmp_path, damage, said):
    folder = FORMS["zips"](tmp_path / "raw")
    damage(folder)
    with pytest.raises(DataError, match=said):
        load(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def empty_class(folder):
    for path in (folder / "train" / "n00000002").iterdir():
        path.unlink()


def missing_split(folder):
    shutil.rmtree(folder / "val")


def missing_class(folder):
    shutil.rmtree(folder / "test" / "n20000001")


def one_too_many(folder):
    first = next((folder / "test" / "n20000001").iterdir())
    shutil.copy(first, first.with_name("zz.png"))


def empty_file(folder):
    (folder / "val" / "n10000001" / "n1000000100000002.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (empty_class, r"/train has 3 classes; the train split must have 4"),
        (missing_split, r"has the folders test, train only"),
        (missing_class, r"/test has 2 classes; the test split must have 3"),
        (one_too_many, r"/test has 7 images of class n20000001"),
        (empty_file, r"Cannot decode .*n1000000100000002\.png: it is empty"),
    ],
)
def test_damage_of_class_folders_is_named(tmp_path, damage, said):
    folder = FORMS["folders"](tmp_path / "raw")
    damage(folder)
    with pytest.raises(DataError, match=said):
        load(folder)


class _Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"image_data": _Evil()}, r"-val\.pkl asks for (posix|nt)\.system"),
        ([1, 2], "must hold a dictionary"),
        ({"image_data": np.zeros((2, 4, 4, 3), np.uint8)}, "must hold a dictionary"),
        ({"image_data": np.zeros((2, 4, 4, 3)), "class_dict": {}}, "uint8 array"),
        (
            {"image_data": np.zeros((2, 4, 4, 3), np.uint8), "class_dict": {"a": [0, 2]}},
            "beyond its 2 images",
        ),
        (
            {"image_data": np.zeros((2, 4, 4, 3), np.uint8), "class_dict": {"a": ["x"]}},
            "must hold a dictionary",
        ),
        (
            {"image_data": np.zeros((2, 4, 4, 3), np.uint8), "class_dict": {"a": [0], "b": [1]}},
            r"-val\.pkl has 1 images of class a",
        ),
    ],
)
def test_damage_of_pickles_is_named(tmp_path, content, said):
    folder = FORMS["pickles"](tmp_path / "raw")
    (folder / "mini-imagenet-cache-val.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=rf"mini-imagenet-cache-val.*|{said}") as caught:
        load(folder)
    assert caught.match(said)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, said in (("empty", r"has no class folders.*train\.csv"), ("none", "is no folder")):
        with pytest.raises(DataError, match=said):
            find_layout(tmp_path / name)
