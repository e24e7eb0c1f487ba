"""One's own images: a folder per class, in ``<root>/<class>/`` or ``<root>/{train,val,test}/<class>/``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from mamlpp_jax.data.dataset import SPLITS, Dataset
from mamlpp_jax.data.readers.class_folders import read_rgb, report_strays, scan_classes, subfolders
from mamlpp_jax.data.readers.images import load_squares, with_channels
from mamlpp_jax.errors import ConfigError, DataError


def identity(data_config: Any) -> str:
    """Identifies the contents of the folder: names, sizes and modification times of its files.

    A copy of the folder that keeps the times has the same identity, wherever it lies.
    """
    classes, splits = _classes(_root(data_config))
    digest = hashlib.sha256()
    for name, paths in classes.items():
        digest.update(f"{name}\0{splits.get(name, '')}\n".encode())
        for path in paths:
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
            digest.update(os.fsencode(f"{name}/{path.name}\0"))
            digest.update(f"{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return f"{digest.hexdigest()[:12]}-c{int(data_config.channels)}"


def build(data_config: Any) -> Dataset:
    """Reads and resizes the images, according to `manual_dir`, `image_size` (pixels) and `channels`.

    Classes are in name order, the images of a class in file name order; with the splits of
    ``<root>/{train,val,test}/<class>/``, else without.
    """
    root, size = _root(data_config), int(data_config.image_size)
    classes, splits = _classes(root)
    paths = [path for members in classes.values() for path in members]
    squares = load_squares([partial(read_rgb, path) for path in paths], size)
    images = with_channels(squares, int(data_config.channels))
    sizes = np.array([len(members) for members in classes.values()], np.int32)
    _report(root, classes, splits, images)
    return Dataset(
        name="image_folder",
        images=images,
        class_names=tuple(classes),
        class_sizes=sizes,
        class_splits=tuple(splits[name] for name in classes) if splits else (),
    )


def _root(data_config: Any) -> Path:
    if not data_config.manual_dir:
        raise ConfigError(
            "data.manual_dir is empty; for data.name=image_folder it must be the folder of your images, "
            "<root>/<class>/*.png or <root>/{train,val,test}/<class>/*.png."
        )
    return Path(data_config.manual_dir).expanduser()


def _classes(root: Path) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Image files by class, sorted, and the split of each class, {} without splits."""
    if not root.is_dir():
        raise DataError(f"data.manual_dir: {root} is no folder; it must have a folder per class.")
    names = {path.name for path in subfolders(root)}
    if not names or not names <= set(SPLITS):
        return scan_classes(root), {}
    if names != set(SPLITS):
        raise DataError(
            f"{root} has the folders {', '.join(sorted(names))} only; class folders in splits need all of "
            f"{', '.join(SPLITS)}."
        )
    report_strays(root, [path.name for path in sorted(root.iterdir()) if path.is_file()])
    classes: dict[str, list[Path]] = {}
    splits: dict[str, str] = {}
    for split in SPLITS:
        for name, paths in scan_classes(root / split).items():
            if name in classes:
                raise DataError(
                    f"The class {name} is in {root / splits[name]} and in {root / split}; few-shot splits must "
                    "have different classes. To have classes split for you, put all class folders into one folder."
                )
            classes[name], splits[name] = paths, split
    return dict(sorted(classes.items())), splits


def _report(
    root: Path, classes: Mapping[str, list[Path]], splits: Mapping[str, str], images: np.ndarray
) -> None:
    """Logs what was read."""
    sizes = {name: len(paths) for name, paths in classes.items()}
    low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    by_split = ", ".join(f"{list(splits.values()).count(split)} {split}" for split in SPLITS)
    colour = "grey" if images.shape[-1] == 1 else "colour"
    logging.info(
        f"Read {root}: {len(images)} {colour} images of {len(classes)} classes "
        f"({by_split if splits else 'without splits'}), from {sizes[low]} images ({low}) to {sizes[high]} ({high})."
    )
