"""A recognised layout of an image set: its images by split and class, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.readers.images import ImageLoader, empty_images, load_squares
from mamlpp_jax.errors import DataError

Listing = dict[
    str, dict[str, list[str]]
]  # names of the images by split ("" without splits) and class


class Layout(NamedTuple):
    """A recognised layout.

    Attributes:
        listing: names of the images by split and class; one split "" where there are none.
        read: function from a split to its classes in the order of `listing`, each with the loaders of its
            images. A class is read when the one before has been used, so that memory holds one class,
            or one pickle, at a time.
        origins: the file or folder of each split, for messages.
        files: the files that hold the images or list them.
    """

    listing: Listing
    read: Callable[[str], Iterator[tuple[str, list[ImageLoader]]]]
    origins: dict[str, Path]
    files: list[Path]


def checked(listing: Listing, origins: Mapping[str, Path]) -> Listing:
    """The listing, after a check that no class is in two splits."""
    split_with: dict[str, str] = {}
    for split, classes in listing.items():
        for name in classes:
            if (other := split_with.setdefault(name, split)) != split:
                raise DataError(
                    f"The class {name} is in {origins[other]} and in {origins[split]}; few-shot splits must have "
                    "different classes. To have the classes of one folder split for you, use data.manual_dir="
                    f"{origins['train'] if origins['train'].is_dir() else 'DIR'}."
                )
    return listing


def load_layout(layout: Layout, name: str, size: int) -> Dataset:
    """Decodes and resizes all images: colour, classes in name order, images in the order of the listing."""
    split_with = {c: split for split, classes in layout.listing.items() for c in classes}
    names = tuple(sorted(split_with))
    sizes = np.array([len(layout.listing[split_with[c]][c]) for c in names], np.int32)
    images = empty_images(int(sizes.sum()), size, 3)
    members = dict(zip(names, np.split(images, np.cumsum(sizes)[:-1]), strict=True))
    for split in layout.listing:
        for class_name, loaders in layout.read(split):
            members[class_name][:] = load_squares(loaders, size)
    splits = () if "" in layout.listing else tuple(split_with[c] for c in names)
    return Dataset(name, images, names, sizes, splits)
