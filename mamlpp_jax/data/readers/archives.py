"""Zip archives; every sort of damage is reported as a `DataError` that names the archive and the member."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from mamlpp_jax.errors import DataError

# Far more than an image needs. A small archive could unpack to gigabytes.
_MAX_MEMBER_BYTES = 2**28


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive whose member names are relative and stay in the archive's folder."""
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DataError(f"Archive {path} does not exist.") from error
    except Exception as error:  # zipfile and its decompressors have no common base class
        raise DataError(
            f"Archive {path} is truncated or not a zip file ({error}); copy or download it again."
        ) from error
    with archive:
        for name in archive.namelist():
            if not is_safe(name):
                raise DataError(
                    f"Archive {path} has the member {name!r}; names must be relative and without "
                    "'..'. This is not the original archive."
                )
        yield archive


def is_safe(name: str) -> bool:
    """Checks that a member name stays inside the folder an archive is unpacked to."""
    # Windows' rules are checked on every system: they add drives and backslashes.
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.anchor or ".." in path.parts:
            return False
    return True


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Reads one member of at most 256 MiB and verifies its checksum."""
    try:
        size = archive.getinfo(name).file_size
        if size > _MAX_MEMBER_BYTES:
            raise ValueError(f"it claims {size} bytes, at most {_MAX_MEMBER_BYTES} are read")
        return archive.read(name)
    except Exception as error:
        raise DataError(
            f"Archive {archive.filename}: member {name!r} cannot be read ({error}); the archive is "
            "damaged, copy or download it again."
        ) from error
