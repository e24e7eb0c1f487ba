"""Folders of images by class."""

import pytest
from PIL import Image

from mamlpp_jax.data.readers.class_folders import read_rgb, scan_classes
from mamlpp_jax.errors import DataError


@pytest.fixture
def root(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "b/.hidden.png", "b/notes.txt", "a/3.webp", ".git/x.png"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "root" / "a" / "folder.png").mkdir()
    return tmp_path / "root"


def test_images_are_listed_by_class_in_name_order(root, caplog):
    assert scan_classes(root) == {
        "a": [root / "a" / "3.webp"],
        "b": [root / "b" / "1.JPG", root / "b" / "2.png"],
    }
    assert "1 entries are not used, such as b/notes.txt" in caplog.text
    assert "left out: a/folder.png" in caplog.text


def test_folders_without_classes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none cannot be read"):
        scan_classes(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no class folders"):
        scan_classes(tmp_path / "empty")


def test_an_image_is_read_or_named(tmp_path):
    Image.new("L", (2, 3), 7).save(tmp_path / "a.png")
    image = read_rgb(tmp_path / "a.png")
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (2, 3), (7, 7, 7))
    with pytest.raises(DataError, match=r"none\.png cannot be read \(No such file"):
        read_rgb(tmp_path / "none.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"Cannot decode .*b\.png"):
        read_rgb(tmp_path / "b.png")
