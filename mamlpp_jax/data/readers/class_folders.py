"""Folders of images, a folder per class; one that is missing or cannot be read is reported as a `DataError`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from absl import logging
from PIL import Image

from mamlpp_jax.data.readers.images import SUFFIXES, decode_rgb
from mamlpp_jax.errors import DataError


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones."""
    return [path for path in _entries(folder) if path.is_dir()]


def scan_classes(folder: Path) -> dict[str, list[Path]]:
    """Sorted image files by class name, classes sorted; a class is a folder in `folder`, and has an image at least."""
    classes: dict[str, list[Path]] = {}
    strays = [path.name for path in _entries(folder) if not path.is_dir()]
    for path in subfolders(folder):
        if not path.name.isprintable():
            raise DataError(
                f"The class folder {str(path)!r} has a name with unprintable characters; rename it."
            )
        entries = _entries(path)
        images = [p for p in entries if p.suffix.lower() in SUFFIXES and p.is_file()]
        if not images:
            raise DataError(
                f"The class folder {path} has no image; each needs some ({' '.join(sorted(SUFFIXES))}). "
                "Remove it if it is not a class."
            )
        classes[path.name] = images
        used = set(images)
        strays += [f"{path.name}/{p.name}" for p in entries if p not in used]
    if not classes:
        raise DataError(
            f"{folder} has no class folders; it must have one for each class of images."
        )
    report_strays(folder, strays)
    return classes


def report_strays(folder: Path, strays: Sequence[str]) -> None:
    """Warns of files or folders that are not used."""
    if strays:
        logging.warning("%s: %d entries are not used, such as %s.", folder, len(strays), strays[0])


def read_rgb(path: Path) -> Image.Image:
    """Reads and decodes an image file, see `decode_rgb`."""
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    return decode_rgb(encoded, str(path))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot be read ({error.strerror or error})."
        ) from error
