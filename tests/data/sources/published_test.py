"""Published sets of photographs: every form gives the same data set; and the real one where it is at hand."""

import os
import pathlib
import shutil

import numpy as np
import pytest

from mamlpp_jax.data.sources import published, registry
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
    with pytest.raises(DataError, match=r"is not downloaded.*data\.manual_dir"):
        read(tmp_path, "")


def test_the_splits_of_sets_made_of_cifar100():
    for name, counts in (("cifar_fs", [64, 16, 20]), ("fc100", [60, 20, 20])):
        splits = published.PUBLISHED[name].split(_CIFAR100.split())
        assert [splits.count(split) for split in ("train", "val", "test")] == counts


def test_cub_as_it_is_unpacked_gets_its_published_split():
    names = [f"{number:03d}.Bird" for number in range(1, 201)]
    splits = published.PUBLISHED["cub"].split(names)
    assert [splits.count(split) for split in ("train", "val", "test")] == [100, 50, 50]
    assert splits[:5] == ["train", "val", "train", "test", "train"]


def test_cifar100_as_prepared_by_tfds(tmp_path, monkeypatch):
    small_sources.shrink_published(monkeypatch, "fc100", {"train": 1, "val": 1, "test": 1}, 2)
    labels = ["apple", "baby", "bear"]

    def features(tfds_features):
        return {
            "image": tfds_features.Image(shape=(32, 32, 3)),
            "coarse_label": tfds_features.ClassLabel(num_classes=20),
            "label": tfds_features.ClassLabel(names=labels),
        }

    pixels = small_sources.png(np.zeros((32, 32, 3), np.uint8))
    examples = [{"image": pixels, "coarse_label": 0, "label": label} for label in labels * 2]
    splits = {"train": examples[:3], "test": examples[3:]}
    root = small_sources.prepare_tfds(
        tmp_path / "root", "cifar100", features, splits, ("image", "label")
    )
    config = small_sources.data_config(tmp_path, "fc100", tfds_dir=root)
    data = registry.load_dataset(config)
    assert (data.name, data.class_splits) == ("fc100", ("train", "test", "val"))


def test_a_part_of_a_published_set_is_refused_with_its_counts(tmp_path):
    folder = small_sources.class_folders(tmp_path / "raw", "apple", "whale")
    config = small_sources.data_config(tmp_path, "cifar_fs", manual_dir=folder)
    with pytest.raises(
        DataError, match=r"2 classes without splits; CIFAR-FS has 64/16/20 classes of 600"
    ):
        registry.load_dataset(config)


_CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm"""


@pytest.mark.slow
def test_the_real_one(tmp_path, caplog):
    root = os.environ.get("MAMLPP_DATA_DIR")
    if not root or not (pathlib.Path(root) / "mini_imagenet").is_dir():
        pytest.skip("set MAMLPP_DATA_DIR to a folder with mini_imagenet")
    data = read(tmp_path, pathlib.Path(root) / "mini_imagenet", image_size=84)
    assert data.images.shape == (60000, 84, 84, 3)
    assert [data.class_splits.count(split) for split in ("train", "val", "test")] == [64, 16, 20]
    assert "8 pairs of identical images, 6 of them across splits" in caplog.text
