"""Reading of zip archives, with every kind of damage turned into a ``DataError``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from mamlpp_jax.errors import DataError


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip archive whose member names are safe.

    Args:
        path: the archive.

    Yields:
        The open archive.

    Raises:
        DataError: the file is missing, is no complete zip archive, or has a member whose name is
            absolute or leaves the archive's folder.
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DataError(f"Archive {path} does not exist.") from error
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
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
    """Tells whether a member name stays inside the folder an archive is unpacked to."""
    # Windows' rules are checked everywhere: they add drives and backslashes.
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.anchor or ".." in path.parts:
            return False
    return True


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Reads one member and verifies its checksum.

    Args:
        archive: an open archive.
        name: the member.

    Returns:
        Its contents.

    Raises:
        DataError: the member is missing or damaged.
    """
    try:
        return archive.read(name)
    except (
        KeyError,
        OSError,
        EOFError,
        RuntimeError,  # encrypted; NotImplementedError (unknown compression) is one too
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(
            f"Archive {archive.filename}: member {name!r} cannot be read ({error}); the archive is "
            "damaged, copy or download it again."
        ) from error
