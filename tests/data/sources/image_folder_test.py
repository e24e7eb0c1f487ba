"""One's own images: both layouts, grey and colour, uneven classes, and what is refused."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from mamlpp_jax.data.sources import registry
from mamlpp_jax.data.splits import split_dataset
from mamlpp_jax.errors import ConfigError, DataError
from tests.helpers import small_sources


def config(tmp_path, **changes):
    return small_sources.data_config(
        tmp_path, "image_folder", **({"manual_dir": tmp_path / "own"} | changes)
    )


def read(tmp_path, **changes):
    return registry.load_dataset(config(tmp_path, **changes))


def test_classes_are_folders_and_may_differ_in_size(tmp_path, caplog):
    caplog.set_level("INFO", "absl")
    root = small_sources.own_images(tmp_path / "own", size=(16, 16))
    data = read(tmp_path)
    assert data.class_names == tuple(f"class {i}" for i in range(8))
    assert data.class_sizes.tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert data.class_splits == ()
    start = 4 + 5
    for number in range(6):
        expected = np.asarray(Image.open(root / "class 2" / f"{number:02d}.png"))
        np.testing.assert_array_equal(data.images[start + number], expected)
    expected = "60 colour images of 8 classes (to be split), from 4 images (class 0) to 11"
    assert expected in caplog.text


def test_folders_of_splits_are_the_splits(tmp_path, caplog):
    caplog.set_level("INFO", "absl")
    small_sources.own_images(tmp_path / "own", splits=("test", "train", "val", "train"))
    data = read(tmp_path)
    assert data.class_splits == ("test", "train", "val", "train") * 2
    splits = split_dataset(data, config(tmp_path))
    assert {split: sorted(members.tolist()) for split, members in splits.items()} == {
        "train": [1, 3, 5, 7],
        "val": [2, 6],
        "test": [0, 4],
    }
    assert "4 train, 2 val, 2 test" in caplog.text


def test_a_class_may_be_called_train(tmp_path):
    root = small_sources.own_images(tmp_path / "own")
    shutil.move(root / "class 3", root / "train")
    assert "train" in read(tmp_path).class_names


@pytest.mark.parametrize(
    ("mode", "channels", "found"), [("RGB", 0, 3), ("L", 0, 1), ("L", 3, 3), ("RGB", 1, 1)]
)
def test_grey_and_colour(tmp_path, mode, channels, found):
    root = small_sources.own_images(tmp_path / "own", mode=mode, size=(16, 16))
    data = read(tmp_path, channels=channels)
    assert data.images.shape == (60, 16, 16, found)
    first = Image.open(root / "class 0" / "00.png").convert("L" if found == 1 else "RGB")
    np.testing.assert_array_equal(data.images[0].squeeze(), np.asarray(first))


def test_one_colour_image_makes_the_set_colour(tmp_path):
    root = small_sources.own_images(tmp_path / "own", mode="L")
    Image.new("RGB", (9, 9), "red").save(root / "class 5" / "red.jpeg")
    assert read(tmp_path).images.shape[-1] == 3


def test_a_change_of_the_folder_is_noticed_and_a_copy_is_not_read_again(tmp_path):
    root = small_sources.own_images(tmp_path / "own")
    first = read(tmp_path)
    shutil.copytree(root, tmp_path / "copy")
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1
    read(tmp_path, manual_dir=tmp_path / "copy")
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1
    changed = root / "class 0" / "00.png"
    times = changed.stat()
    Image.new("RGB", (16, 16), "blue").save(changed)
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    second = read(tmp_path)
    assert not np.array_equal(first.images, second.images)
    (root / "class 0" / "00.png").unlink()
    assert len(read(tmp_path).images) == len(first.images) - 1
    assert read(tmp_path, channels=1).images.shape[-1] == 1


def test_unused_files_are_reported(tmp_path, caplog):
    root = small_sources.own_images(tmp_path / "own")
    (root / "notes.txt").write_text("x")
    (root / ".DS_Store").write_text("x")
    (root / "class 1" / "Thumbs.db").write_text("x")
    (root / "class 1" / "more").mkdir()
    assert read(tmp_path).num_classes == 8
    assert "2 entries are not used, such as notes.txt" in caplog.text
    assert "1 folders have no image" in caplog.text
    assert "left out: class 1/more" in caplog.text


def missing(root):
    shutil.rmtree(root)


def no_classes(root):
    for path in root.iterdir():
        shutil.rmtree(path)


def corrupt(root):
    path = root / "class 3" / "02.png"
    path.write_bytes(path.read_bytes()[:50])


def empty_image(root):
    (root / "class 3" / "02.png").write_bytes(b"")


def unprintable(root):
    os.rename(root / "class 3", os.fsencode(root) + b"/class \xff")


def dangling(root):
    (root / "class 3" / "02.png").unlink()
    (root / "class 3" / "02.png").mkdir()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (missing, r"data\.manual_dir: .*own is no folder"),
        (no_classes, r"own has no class folders"),
        (unprintable, "unprintable characters"),
        (corrupt, r"Cannot decode .*class 3/02\.png"),
        (empty_image, r"Cannot decode .*class 3/02\.png: it is empty"),
    ],
)
def test_damage_is_named(tmp_path, damage, said):
    damage(small_sources.own_images(tmp_path / "own"))
    with pytest.raises(DataError, match=said):
        read(tmp_path)
    assert not list((tmp_path / "cache").glob("*.npz"))


def test_a_folder_named_like_an_image_is_not_used(tmp_path):
    dangling(small_sources.own_images(tmp_path / "own"))
    assert len(read(tmp_path).images) == 59


def test_splits_that_share_a_class_or_lack_one_are_refused(tmp_path):
    root = small_sources.own_images(tmp_path / "own", splits=("train", "val", "test"))
    shutil.copytree(root / "val" / "class 1", root / "test" / "class 1")
    with pytest.raises(DataError, match=r"class 1 is in .*own/val and in .*own/test"):
        read(tmp_path)
    shutil.rmtree(root / "test")
    with pytest.raises(DataError, match=r"has the folders train, val only"):
        read(tmp_path)


def test_a_missing_folder_field_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.manual_dir is empty"):
        read(tmp_path, manual_dir="")
