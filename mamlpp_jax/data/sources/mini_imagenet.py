"""mini-ImageNet: 100 classes of 600 colour images, split 64/16/20 by Ravi and Larochelle (ICLR 2017).

Read from the forms in which people have it (`mini_imagenet_files`), since it may not be downloaded freely.
The images of a class are ordered by their pixels, so every form that holds the same pixels gives the same
arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.readers.images import empty_images, load_squares
from mamlpp_jax.data.sources.mini_imagenet_files import FORMS, Layout, find_layout
from mamlpp_jax.errors import DataError


def build(data_config: Any) -> Dataset:
    """Reads 100 classes of 600 colour images, with the published splits, from ``data.manual_dir``."""
    if not data_config.manual_dir:
        raise DataError(
            "mini-ImageNet cannot be downloaded (ImageNet's terms forbid it); set data.manual_dir to a folder "
            f"with {FORMS}."
        )
    folder = Path(data_config.manual_dir).expanduser()
    logging.info("Reading mini-ImageNet from data.manual_dir=%s.", folder)
    return _assemble(find_layout(folder), int(data_config.image_size))


def _assemble(layout: Layout, image_size: int) -> Dataset:
    """Decodes the images class by class, in the order of the source."""
    split_of = {name: split for split, classes in layout.listing.items() for name in classes}
    class_names = tuple(sorted(split_of))
    sizes = np.array([len(layout.listing[split_of[name]][name]) for name in class_names], np.int32)
    images = empty_images(int(sizes.sum()), image_size, 3)
    members = dict(zip(class_names, np.split(images, np.cumsum(sizes)[:-1]), strict=True))
    for split in layout.listing:
        for name, loaders in layout.read(split):
            members[name][:] = load_squares(loaders, image_size)
    class_splits = tuple(split_of[name] for name in class_names)
    names = [
        f"{split}/{image}"
        for name, split in zip(class_names, class_splits, strict=True)
        for image in layout.listing[split][name]
    ]
    _report_duplicates(images, names)
    for group in members.values():
        group[:] = group[np.argsort([image.tobytes() for image in group], kind="stable")]
    return Dataset("mini_imagenet", images, class_names, sizes, class_splits)


def _report_duplicates(images: np.ndarray, names: Iterable[str]) -> None:
    """Warns of images with the same pixels; `names` are "<split>/<image>"."""
    first: dict[bytes, str] = {}
    pairs = []
    for image, name in zip(images, names, strict=True):
        other = first.setdefault(hashlib.sha256(image.tobytes()).digest(), name)
        if other is not name:
            pairs.append((other, name))
    if pairs:
        logging.warning(
            "mini-ImageNet has %d pairs of identical images, %d of them across splits: %s.",
            len(pairs),
            sum(a.split("/")[0] != b.split("/")[0] for a, b in pairs),
            ", ".join(f"{a} = {b}" for a, b in pairs[:10]) + (", ..." if len(pairs) > 10 else ""),
        )
