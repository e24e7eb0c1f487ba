"""mini-ImageNet in the forms people have it in, whole and damaged; and the real one where it is at hand."""

import os
import pathlib
import pickle
import shutil
import zipfile

import numpy as np
import pytest
from absl import logging as absl_logging

from mamlpp_jax.data.sources import mini_imagenet, registry
from mamlpp_jax.data.splits import split_dataset
from mamlpp_jax.errors import DataError
from tests.helpers import small_sources

FORMS = small_sources.MINI_FORMS


@pytest.fixture(autouse=True)
def _small(request, monkeypatch):
    if request.node.name != "test_the_real_one":
        small_sources.shrink_mini_imagenet(monkeypatch)


@pytest.fixture
def warnings_logged(monkeypatch):
    messages = []
    monkeypatch.setattr(absl_logging, "warning", lambda text, *parts: messages.append(text % parts))
    return messages


def config(tmp_path, folder, **changes):
    return small_sources.data_config(tmp_path, "mini_imagenet", manual_dir=folder, **changes)


def read(tmp_path, folder, **changes):
    return registry.load_dataset(config(tmp_path, folder, **changes))


def test_every_form_gives_the_same_classes_pictures_and_splits(tmp_path):
    expected = {}
    for split, name, _, pixels in small_sources.mini_pictures():
        expected.setdefault((name, split), set()).add(pixels.tobytes())
    first = None
    for form, make in FORMS.items():
        folder = make(tmp_path / form)
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        data = read(tmp_path, folder, cache_dir=tmp_path / f"cache {form}")
        assert list(zip(data.class_names, data.class_splits, strict=True)) == sorted(expected)
        for index, key in enumerate(sorted(expected)):
            rows = data.images[6 * index : 6 * index + 6]
            assert {row.tobytes() for row in rows} == expected[key]
        first = data if first is None else first
        np.testing.assert_array_equal(data.images, first.images)  # in the same order, too
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_the_published_splits_are_used(tmp_path):
    folder = FORMS["folders"](tmp_path / "raw")
    data = read(tmp_path, folder)
    splits = split_dataset(data, config(tmp_path, folder))
    for split, members in splits.items():
        names = sorted(data.class_names[i] for i in members)
        assert names == sorted(p.name for p in (folder / split).iterdir())


def test_a_prepared_copy_serves_another_cache(tmp_path):
    data = read(tmp_path, FORMS["zips"](tmp_path / "raw"))
    prepared = tmp_path / "cache" / "tfds"
    again = read(tmp_path, "", tfds_dir=prepared, cache_dir=tmp_path / "other")
    np.testing.assert_array_equal(again.images, data.images)
    (tmp_path / "cache" / "mini_imagenet-16px-v1.npz").unlink()
    np.testing.assert_array_equal(read(tmp_path, "").images, data.images)
    with pytest.raises(DataError, match=r"prepared at 20 pixels.*data\.manual_dir"):
        read(tmp_path, "", tfds_dir=prepared, image_size=20)


def test_pictures_of_another_size_are_resized(tmp_path):
    data = read(tmp_path, FORMS["images"](tmp_path / "raw"), image_size=8)
    assert data.images.shape == (54, 8, 8, 3)


def test_python_2_pickles_are_read(tmp_path):
    folder = FORMS["pickles"](tmp_path / "raw", protocol=2)
    path = folder / "mini-imagenet-cache-val.pkl"
    content = pickle.loads(path.read_bytes())
    content = {b"image_data": content["image_data"], b"class_dict": content["class_dict"]}
    path.write_bytes(pickle.dumps(content, protocol=2))
    assert read(tmp_path, folder).num_classes == 9


def test_strays_and_duplicates_are_reported(tmp_path, warnings_logged):
    folder = FORMS["zips"](tmp_path / "raw")
    with zipfile.ZipFile(folder / "images_c.zip", "w") as archive:
        archive.writestr("images/stray.jpg", b"unread")
        archive.writestr("images/n0000000000000000.png", b"unread: the first of a name is used")
        archive.writestr("__MACOSX/images/x.jpg", b"")
    with (folder / "val.csv").open("a") as file:
        file.write("n1000000000000000.png,n10000000\r\n")
    read(tmp_path, folder)
    text = "\n".join(warnings_logged)
    assert "1 entries are not used, such as stray.jpg" in text
    assert "images_c.zip:images/n0000000000000000.png; the first" in text
    assert "val.csv lists 1 pictures twice" in text
    assert "identical" not in text


def test_pictures_with_the_same_pixels_are_reported(tmp_path, warnings_logged):
    folder = FORMS["images"](tmp_path / "raw")
    images = folder / "images"
    shutil.copy(images / "n0000000000000000.png", images / "n1000000100000003.png")
    shutil.copy(images / "n0000000000000000.png", images / "n0000000000000001.png")
    read(tmp_path, folder)
    assert any(
        "2 pairs of identical pictures, 1 of them across splits" in text
        and "train/n0000000000000000.png = val/n1000000100000003.png" in text
        for text in warnings_logged
    )


def csv_line(folder, split, old, new):
    path = folder / f"{split}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def remove_csv(folder):
    (folder / "val.csv").unlink()


def other_header(folder):
    csv_line(folder, "train", "filename,label", "file,class")


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


def corrupt_picture(folder):
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
        (remove_csv, r"val\.csv does not exist"),
        (other_header, r"train\.csv must begin with the line 'filename,label'"),
        (relabelled, r"train\.csv has 5 pictures of class n00000000; every class must have 6"),
        (not_in_archives, r"test\.csv lists n2000000000000093\.png of class n20000000"),
        (shared_class, r"class n00000000 is in .*train\.csv and in .*val\.csv"),
        (climbing_csv, r"test\.csv, line 5: '\.\./n2.*without folders"),
        (binary_csv, r"test\.csv cannot be read"),
        (climbing_zip, r"images_c\.zip has the member '\.\./evil\.jpg'"),
        (truncated_zip, r"images_b\.zip is truncated"),
        (corrupt_picture, r"Cannot decode .*images_a\.zip:images/n0000000100000000\.png"),
        (no_archives, r"neither a folder images nor a zip"),
    ],
)
def test_damage_of_csv_files_and_archives_is_named(tmp_path, damage, said):
    folder = FORMS["zips"](tmp_path / "raw")
    damage(folder)
    outside = set(tmp_path.iterdir())
    with pytest.raises(DataError, match=said):
        read(tmp_path, folder)
    assert not list((tmp_path / "cache").glob("*.npz"))
    assert set(tmp_path.iterdir()) <= outside | {tmp_path / "cache"}


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
        (empty_class, r"class folder .*train/n00000002 has no picture"),
        (missing_split, r"has no folder val"),
        (missing_class, r"/test has 2 classes; the test split must have 3"),
        (one_too_many, r"/test has 7 pictures of class n20000001"),
        (empty_file, r"Cannot decode .*n1000000100000002\.png: it is empty"),
    ],
)
def test_damage_of_class_folders_is_named(tmp_path, damage, said):
    folder = FORMS["folders"](tmp_path / "raw")
    damage(folder)
    with pytest.raises(DataError, match=said):
        read(tmp_path, folder)


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
            "beyond the 2 pictures",
        ),
        (
            {"image_data": np.zeros((2, 4, 4, 3), np.uint8), "class_dict": {"a": ["x"]}},
            "must hold a dictionary",
        ),
        (
            {"image_data": np.zeros((2, 4, 4, 3), np.uint8), "class_dict": {"a": [0], "b": [1]}},
            r"-val\.pkl has 1 pictures of class a",
        ),
    ],
)
def test_damage_of_pickles_is_named(tmp_path, content, said):
    folder = FORMS["pickles"](tmp_path / "raw")
    (folder / "mini-imagenet-cache-val.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=rf"mini-imagenet-cache-val.*|{said}") as caught:
        read(tmp_path, folder)
    assert caught.match(said)


def test_what_is_not_mini_imagenet_is_told_what_would_be(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, said in (
        (tmp_path / "empty", "does not hold"),
        (tmp_path / "none", "is no folder"),
    ):
        with pytest.raises(DataError, match=rf"{said}.*train\.csv.*mini-imagenet-cache-train\.pkl"):
            read(tmp_path, folder)
    with pytest.raises(DataError, match=r"cannot be downloaded.*data\.manual_dir"):
        read(tmp_path, "")


def test_a_broken_preparation_is_named(tmp_path):
    read(tmp_path, FORMS["zips"](tmp_path / "raw"))
    prepared = tmp_path / "cache" / "tfds"
    record = next(prepared.rglob("*train*record*"))
    record.write_bytes(record.read_bytes()[:500])
    with pytest.raises(DataError, match=r"16px/1\.0\.0 cannot be read as prepared mini-ImageNet"):
        mini_imagenet.read_prepared(prepared, 16)


@pytest.mark.slow
def test_the_real_one(tmp_path, warnings_logged):
    root = os.environ.get("MAMLPP_DATA_DIR")
    if not root or not (pathlib.Path(root) / "mini_imagenet").is_dir():
        pytest.skip("set MAMLPP_DATA_DIR to a folder with mini_imagenet")
    data = read(tmp_path, pathlib.Path(root) / "mini_imagenet", image_size=84)
    assert data.images.shape == (60000, 84, 84, 3)
    assert [data.class_splits.count(split) for split in ("train", "val", "test")] == [64, 16, 20]
    assert any(
        "8 pairs of identical pictures, 6 of them across splits" in w for w in warnings_logged
    )
