"""Zip archives: unsafe names and every damage are refused by name."""

import zipfile

import pytest

from mamlpp_jax.data.readers.archives import open_zip, read_member
from mamlpp_jax.errors import DataError


def write(path, name, content=b"x"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content)


@pytest.mark.parametrize("name", ["a/b.png", "a..b/c", "./a"])
def test_members_are_read(tmp_path, name):
    write(tmp_path / "good.zip", name, b"contents")
    with open_zip(tmp_path / "good.zip") as archive:
        assert read_member(archive, name) == b"contents"


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/a", "C:/a", "C:a", "a\\..\\b", "\\a", "\\\\host\\share\\a"]
)
def test_unsafe_names_are_refused(tmp_path, name):
    write(tmp_path / "bad.zip", name)
    with pytest.raises(DataError, match=r"bad\.zip has the member"), open_zip(tmp_path / "bad.zip"):
        pass


def test_a_missing_or_truncated_archive_is_named(tmp_path):
    path = tmp_path / "x.zip"
    with pytest.raises(DataError, match=r"x\.zip does not exist"), open_zip(path):
        pass
    write(path, "a")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"x\.zip is truncated or not a zip file"), open_zip(path):
        pass


def test_a_damaged_or_missing_member_is_named(tmp_path):
    path = tmp_path / "x.zip"
    write(path, "a/b.txt", b"contents of the member")
    path.write_bytes(path.read_bytes().replace(b"contents", b"c0ntents"))
    with open_zip(path) as archive:
        with pytest.raises(DataError, match=r"x\.zip: member 'a/b\.txt' cannot be read"):
            read_member(archive, "a/b.txt")
        with pytest.raises(DataError, match="member 'missing' cannot be read"):
            read_member(archive, "missing")


def test_a_member_that_unpacks_to_gigabytes_is_refused(tmp_path):
    path = tmp_path / "x.zip"
    write(path, "a")
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (2**31).to_bytes(4, "little")  # uncompressed size
    path.write_bytes(content)
    with open_zip(path) as archive, pytest.raises(DataError, match="claims 2147483648 bytes"):
        read_member(archive, "a")
