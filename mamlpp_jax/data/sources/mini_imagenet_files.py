"""The three forms in which people have mini-ImageNet on disk, read alike.

(a) ``images/`` (a folder, or zip archives holding it) and Ravi & Larochelle's ``train.csv``, ``val.csv``
and ``test.csv``; (b) the folders ``train``, ``val`` and ``test`` with a folder per class;
(c) ``mini-imagenet-cache-train.pkl``, ``-val.pkl`` and ``-test.pkl``.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from mamlpp_jax.data.dataset import SPLITS
from mamlpp_jax.data.readers.archives import open_zip, read_member
from mamlpp_jax.data.readers.class_folders import (
    read_rgb,
    report_strays,
    scan_classes,
    subfolders,
)
from mamlpp_jax.data.readers.csv_files import read_csv
from mamlpp_jax.data.readers.images import SUFFIXES, ImageLoader, decode_rgb
from mamlpp_jax.data.readers.pickles import load_arrays
from mamlpp_jax.errors import DataError

CLASSES = {"train": 64, "val": 16, "test": 20}
IMAGES_PER_CLASS = 600
FORMS = (
    "images/ or zip archives of it with train.csv, val.csv and test.csv; the folders train, val and test with "
    "a folder per class; or mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl"
)
_HEADER = ["filename", "label"]
_Listing = dict[str, list[str]]  # names of the images by class


class Layout(NamedTuple):
    """One form of the data set.

    Attributes:
        listing: names of the images by split and class.
        read: function from a split to its classes in the order of `listing`, each with the loaders of its
            images. A class is read when the one before has been used, so that memory holds one class,
            or one pickle, at a time.
    """

    listing: dict[str, _Listing]
    read: Callable[[str], Iterator[tuple[str, list[ImageLoader]]]]


def find_layout(folder: Path) -> Layout:
    """Recognises the form of a folder, which is only read.

    Raises:
        DataError: the folder has none of the forms, or not 64/16/20 classes of 600 images.
    """
    if not folder.is_dir():
        raise DataError(
            f"data.manual_dir: {folder} is no folder; it must hold mini-ImageNet: {FORMS}."
        )
    if any(_csv(folder, split).exists() for split in SPLITS):
        return _csv_layout(folder)
    if any(_pickle(folder, split).exists() for split in SPLITS):
        return _pickle_layout(folder)
    if any((folder / split).is_dir() for split in SPLITS):
        return _folder_layout(folder)
    raise DataError(f"data.manual_dir: {folder} does not hold mini-ImageNet; it must be {FORMS}.")


def _csv_layout(folder: Path) -> Layout:
    """Form (a)."""
    listing = {split: _read_csv(_csv(folder, split)) for split in SPLITS}
    _check_listing(listing, partial(_csv, folder))
    locations = _find_images(folder)
    _check_locations(folder, listing, locations)

    def read(split: str) -> Iterator[tuple[str, list[ImageLoader]]]:
        with contextlib.ExitStack() as stack:
            open_once = functools.cache(lambda path: stack.enter_context(open_zip(path)))

            def loader(path: Path, member: str) -> ImageLoader:
                if not member:
                    return partial(read_rgb, path)
                encoded = read_member(open_once(path), member)
                return partial(decode_rgb, encoded, f"{path}:{member}")

            for class_name, names in listing[split].items():
                yield class_name, [loader(*locations[name]) for name in names]

    return Layout(listing, read)


def _check_locations(
    folder: Path, listing: dict[str, _Listing], locations: dict[str, tuple[Path, str]]
) -> None:
    """Checks that every listed image exists and is in one split."""
    listed: set[str] = set()
    for split, classes in listing.items():
        for class_name, names in classes.items():
            if shared := listed.intersection(names):
                raise DataError(
                    f"{_csv(folder, split)} lists {min(shared)}, which another of the three files "
                    "lists too; splits must not share images."
                )
            listed.update(names)
            missing = [name for name in names if name not in locations]
            if missing:
                raise DataError(
                    f"{_csv(folder, split)} lists {missing[0]} of class {class_name}, which is neither "
                    f"in {folder / 'images'} nor in a zip archive of {folder} "
                    f"({len(missing)} of this class are missing)."
                )
    report_strays(folder, [name for name in locations if name not in listed])


def _folder_layout(folder: Path) -> Layout:
    """Form (b)."""
    paths = {}
    for split in SPLITS:
        if not (folder / split).is_dir():
            raise DataError(
                f"{folder} has no folder {split}; mini-ImageNet as class folders needs {', '.join(SPLITS)}."
            )
        paths[split] = scan_classes(folder / split)
    report_strays(folder, [p.name for p in subfolders(folder) if p.name not in SPLITS])
    listing = {
        split: {name: [f"{name}/{path.name}" for path in files] for name, files in classes.items()}
        for split, classes in paths.items()
    }
    _check_listing(listing, lambda split: folder / split)

    def read(split: str) -> Iterator[tuple[str, list[ImageLoader]]]:
        for class_name, files in paths[split].items():
            yield class_name, [partial(read_rgb, path) for path in files]

    return Layout(listing, read)


def _pickle_layout(folder: Path) -> Layout:
    """Form (c). A file is read twice, so that the arrays of one split are in memory at a time."""
    listing = {}
    for split in SPLITS:
        _, rows = _read_pickle(_pickle(folder, split))
        listing[split] = {name: list(map(str, members)) for name, members in rows.items()}
    _check_listing(listing, partial(_pickle, folder))

    def read(split: str) -> Iterator[tuple[str, list[ImageLoader]]]:
        images, rows = _read_pickle(_pickle(folder, split))
        for class_name, members in rows.items():
            yield class_name, [partial(Image.fromarray, images[row]) for row in members]

    return Layout(listing, read)


def _check_listing(listing: dict[str, _Listing], origin: Callable[[str], Path]) -> None:
    """Checks for 64/16/20 classes of 600 images, no class in two splits; `origin` is the file or folder of a split."""
    split_of: dict[str, str] = {}
    for split, classes in listing.items():
        if len(classes) != CLASSES[split]:
            raise DataError(
                f"mini-ImageNet: {origin(split)} has {len(classes)} classes; the {split} split must have "
                f"{CLASSES[split]} classes of {IMAGES_PER_CLASS} images."
            )
        for name, images in classes.items():
            if name in split_of:
                raise DataError(
                    f"mini-ImageNet: class {name} is in {origin(split_of[name])} and in {origin(split)}; "
                    "splits must have different classes."
                )
            split_of[name] = split
            if len(images) != IMAGES_PER_CLASS:
                raise DataError(
                    f"mini-ImageNet: {origin(split)} has {len(images)} images of class {name}; every class "
                    f"must have {IMAGES_PER_CLASS}."
                )


def _csv(folder: Path, split: str) -> Path:
    return folder / f"{split}.csv"


def _pickle(folder: Path, split: str) -> Path:
    return folder / f"mini-imagenet-cache-{split}.pkl"


def _read_csv(path: Path) -> _Listing:
    """Reads ``filename,label`` lines; a repeated line counts once and is reported."""
    if not path.exists():
        raise DataError(
            f"{path} does not exist; Ravi & Larochelle's train.csv, val.csv and test.csv must lie together."
        )
    rows = read_csv(path)
    if not rows or rows[0] != _HEADER:
        raise DataError(
            f"{path} must begin with the line 'filename,label'; it is not the original file."
        )
    listing: _Listing = {}
    label_of: dict[str, str] = {}
    repeated = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or not all(row) or PurePosixPath(row[0]).name != row[0]:
            raise DataError(
                f"{path}, line {number}: {','.join(row)!r} must be a file name without folders, a comma and "
                "a class."
            )
        name, label = row
        if name not in label_of:
            label_of[name] = label
            listing.setdefault(label, []).append(name)
        elif label_of[name] == label:
            repeated.append(name)
        else:
            raise DataError(
                f"{path}, line {number}: {name} is listed as {label} and as {label_of[name]}."
            )
    if repeated:
        logging.warning("%s lists %d images twice, such as %s.", path, len(repeated), repeated[0])
    return dict(sorted(listing.items()))


def _find_images(folder: Path) -> dict[str, tuple[Path, str]]:
    """The location of each image by file name: (file, "") or (archive, member)."""
    images = folder / "images"
    locations: dict[str, tuple[Path, str]] = {}
    if images.is_dir():
        for path in sorted(images.rglob("*")):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                first, _ = locations.setdefault(path.name, (path, ""))
                if first != path:
                    logging.warning("%s is left out: %s has its name.", path, first)
        return locations
    archives = sorted(folder.glob("*.zip"))
    if not archives:
        raise DataError(
            f"{folder} has neither a folder images nor a zip archive; the images listed in train.csv, "
            "val.csv and test.csv must lie in one of them."
        )
    repeated = []
    for path in archives:
        with open_zip(path) as archive:
            for member in archive.namelist():
                inside = PurePosixPath(member)
                if inside.suffix.lower() not in SUFFIXES or inside.parts[0] == "__MACOSX":
                    continue
                if inside.name in locations:
                    repeated.append(f"{path}:{member}")
                else:
                    locations[inside.name] = (path, member)
    if repeated:
        logging.warning(
            "%d images are in the archives twice, such as %s; the first one of each name is used.",
            len(repeated),
            repeated[0],
        )
    return locations


def _read_pickle(path: Path) -> tuple[np.ndarray, dict[str, list[int]]]:
    """The images, uint8 [n, H, W, 3], and the rows of each class, sorted by class."""
    content = load_arrays(path)
    try:
        content = {_text(key): value for key, value in content.items()}
        images = content["image_data"]
        rows = {
            _text(name): np.asarray(members).astype(np.int64, casting="same_kind").ravel().tolist()
            for name, members in content["class_dict"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} must hold a dictionary with image_data (an array) and class_dict (rows by class); "
            f"it does not ({type(error).__name__}: {error})."
        ) from error
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] != 3
        or 0 in images.shape
    ):
        raise DataError(f"{path}: image_data must be a uint8 array [n, H, W, 3], not empty.")
    every = [row for members in rows.values() for row in members]
    if len(set(every)) != len(every) or any(not 0 <= row < len(images) for row in every):
        raise DataError(
            f"{path}: class_dict names rows twice or beyond the {len(images)} images of image_data."
        )
    if len(every) < len(images):
        logging.warning("%s has %d images of no class.", path, len(images) - len(every))
    return images, dict(sorted(rows.items()))


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
