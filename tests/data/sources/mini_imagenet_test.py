"""mini-ImageNet: every form gives the same data set; and the real one where it is at hand."""

import os
import pathlib
import shutil

import numpy as np
import pytest

from mamlpp_jax.data.sources import registry
from mamlpp_jax.data.splits import split_dataset
from mamlpp_jax.errors import DataError
from tests.helpers import small_sources

FORMS = small_sources.MINI_FORMS


@pytest.fixture(autouse=True)
def _small(request, monkeypatch):
    if request.node.name != "test_the_real_one":
        small_sources.shrink_mini_imagenet(monkeypatch)


def config(tmp_path, folder, **changes):
    return small_sources.data_config(tmp_path, "mini_imagenet", manual_dir=folder, **changes)


def read(tmp_path, folder, **changes):
    return registry.load_dataset(config(tmp_path, folder, **changes))


def test_every_form_gives_the_same_classes_images_and_splits(tmp_path):
    expected = {}
    for split, name, _, pixels in small_sources.mini_examples():
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


def test_images_of_another_size_are_resized(tmp_path):
    for form, make in FORMS.items():
        folder = make(tmp_path / form)
        data = read(tmp_path, folder, image_size=8, cache_dir=tmp_path / f"cache {form}")
        assert data.images.shape == (54, 8, 8, 3)
    original = read(tmp_path, folder)
    assert abs(data.images.mean() - original.images.mean()) < 2


def test_images_with_the_same_pixels_are_reported(tmp_path, caplog):
    folder = FORMS["images"](tmp_path / "raw")
    images = folder / "images"
    shutil.copy(images / "n0000000000000000.png", images / "n1000000100000003.png")
    shutil.copy(images / "n0000000000000000.png", images / "n0000000000000001.png")
    read(tmp_path, folder)
    (text,) = caplog.messages
    assert "2 pairs of identical images, 1 of them across splits" in text
    assert "train/n0000000000000000.png = val/n1000000100000003.png" in text


def test_a_source_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot be downloaded.*data\.manual_dir"):
        read(tmp_path, "")


@pytest.mark.slow
def test_the_real_one(tmp_path, caplog):
    root = os.environ.get("MAMLPP_DATA_DIR")
    if not root or not (pathlib.Path(root) / "mini_imagenet").is_dir():
        pytest.skip("set MAMLPP_DATA_DIR to a folder with mini_imagenet")
    data = read(tmp_path, pathlib.Path(root) / "mini_imagenet", image_size=84)
    assert data.images.shape == (60000, 84, 84, 3)
    assert [data.class_splits.count(split) for split in ("train", "val", "test")] == [64, 16, 20]
    assert "8 pairs of identical images, 6 of them across splits" in caplog.text
