"""Folders of pictures, a folder per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from mamlpp_jax.data.readers.images import SUFFIXES
from mamlpp_jax.errors import DataError


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones.

    Raises:
        DataError: the folder is missing or cannot be read.
    """
    return [path for path in _entries(folder) if path.is_dir()]


def scan_classes(folder: Path) -> dict[str, list[Path]]:
    """Lists the pictures of each class.

    Args:
        folder: has a folder per class.

    Returns:
        Sorted picture files by class name, classes sorted.

    Raises:
        DataError: the folder cannot be read, has no class, or a class has no picture.
    """
    classes: dict[str, list[Path]] = {}
    strays = [path.name for path in _entries(folder) if not path.is_dir()]
    for path in subfolders(folder):
        if not path.name.isprintable():
            raise DataError(
                f"The class folder {str(path)!r} has a name with unprintable characters; rename it."
            )
        entries = _entries(path)
        pictures = [p for p in entries if p.suffix.lower() in SUFFIXES and p.is_file()]
        if not pictures:
            raise DataError(
                f"The class folder {path} has no picture; each needs some ({_suffixes()}). "
                "Remove it if it is not a class."
            )
        classes[path.name] = pictures
        taken = set(pictures)
        strays += [f"{path.name}/{p.name}" for p in entries if p not in taken]
    if not classes:
        raise DataError(
            f"{folder} has no class folders; it must have one for each class of pictures."
        )
    report_strays(folder, strays)
    return classes


def report_strays(folder: Path, strays: Sequence[str]) -> None:
    """Warns of files or folders that are not used."""
    if strays:
        logging.warning("%s: %d entries are not used, such as %s.", folder, len(strays), strays[0])


def read_bytes(path: Path) -> bytes:
    """Reads a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot be read ({error.strerror or error})."
        ) from error


def _suffixes() -> str:
    return " ".join(sorted(SUFFIXES))
