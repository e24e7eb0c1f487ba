"""One's own images, in any of the layouts of `readers.layouts`: most simply a folder per class."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

from absl import logging

from mamlpp_jax.data.dataset import SPLITS, Dataset
from mamlpp_jax.data.readers.images import with_channels
from mamlpp_jax.data.readers.layout import load_layout
from mamlpp_jax.data.readers.layouts import find_layout
from mamlpp_jax.errors import ConfigError, DataError


def identity(data_config: Any) -> str:
    """Identifies the contents of the folder: names, sizes and modification times of its files.

    A copy of the folder that keeps the times has the same identity, wherever it lies.
    """
    layout = find_layout(_root(data_config))
    digest = hashlib.sha256(repr(layout.listing).encode(errors="surrogateescape"))
    for path in layout.files:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
        digest.update(os.fsencode(path.name))
        digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return f"{digest.hexdigest()[:12]}-c{int(data_config.channels)}"


def build(data_config: Any) -> Dataset:
    """Reads and resizes the images, according to `manual_dir`, `image_size` (pixels) and `channels`.

    Classes are in name order, the images of a class in file name order; with splits where the folder has them.
    """
    root = _root(data_config)
    dataset = load_layout(find_layout(root), "image_folder", int(data_config.image_size))
    images = with_channels(dataset.images, int(data_config.channels))
    sizes, splits = dataset.class_sizes, dataset.class_splits
    by_split = ", ".join(f"{splits.count(split)} {split}" for split in SPLITS)
    low, high = sizes.argmin(), sizes.argmax()
    counts = f"{sizes[low]} images ({dataset.class_names[low]}) to {sizes[high]} ({dataset.class_names[high]})"
    logging.info(
        f"Read {root}: {len(images)} {'grey' if images.shape[-1] == 1 else 'colour'} images of {len(sizes)} classes "
        f"({by_split if splits else 'to be split'}), "
        + (f"from {counts}." if sizes[low] < sizes[high] else f"{sizes[low]} in each.")
    )
    return dataclasses.replace(dataset, images=images)


def _root(data_config: Any) -> Path:
    if not data_config.manual_dir:
        raise ConfigError(
            "data.manual_dir is empty; for data.name=image_folder it must be the folder of your images, "
            "<root>/<class>/*.png or <root>/{train,val,test}/<class>/*.png."
        )
    return Path(data_config.manual_dir).expanduser()
