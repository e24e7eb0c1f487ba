"""The three forms in which people have mini-ImageNet on disk, read as one.

(a) ``images/`` (a folder, or zip archives holding it) and Ravi & Larochelle's ``train.csv``, ``val.csv``
and ``test.csv``; (b) the folders ``train``, ``val`` and ``test`` with a folder per class;
(c) ``mini-imagenet-cache-train.pkl``, ``-val.pkl`` and ``-test.pkl``.
"""

from __future__ import annotations

import abc
import contextlib
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from mamlpp_jax.data.dataset import SPLITS
from mamlpp_jax.data.readers.archives import open_zip, read_member
from mamlpp_jax.data.readers.class_folders import (
    read_bytes,
    report_strays,
    scan_classes,
    subfolders,
)
from mamlpp_jax.data.readers.images import SUFFIXES
from mamlpp_jax.data.readers.pickles import load_arrays
from mamlpp_jax.errors import DataError

CLASSES = {"train": 64, "val": 16, "test": 20}
IMAGES_PER_CLASS = 600
FORMS = (
    "images/ or zip archives of it with train.csv, val.csv and test.csv; the folders train, val and test with "
    "a folder per class; or mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl"
)
_HEADER = ["filename", "label"]


class Picture(NamedTuple):
    """One encoded picture.

    Attributes:
        class_name: such as "n01532829".
        name: unique within its split.
        origin: names it in errors.
        encoded: the contents of a JPEG or PNG file.
    """

    class_name: str
    name: str
    origin: str
    encoded: bytes


# Pictures of a split by class: names in `Picture`, in the order they are read.
Listing = dict[str, list[str]]


class Layout(abc.ABC):
    """One form of the data set; `listing` is checked when it is made."""

    listing: dict[str, Listing]

    @abc.abstractmethod
    def pictures(self, split: str) -> Iterator[Picture]:
        """Reads every picture of a split.

        Raises:
            DataError: one is missing or broken.
        """


def find_layout(folder: Path) -> Layout:
    """Recognises the form a folder has.

    Raises:
        DataError: it has none, or counts differ from 64/16/20 classes of 600 pictures.
    """
    if not folder.is_dir():
        raise DataError(
            f"data.manual_dir: {folder} is no folder; it must hold mini-ImageNet: {FORMS}."
        )
    if any(_csv(folder, split).exists() for split in SPLITS):
        return CsvLayout(folder)
    if any(_pickle(folder, split).exists() for split in SPLITS):
        return PickleLayout(folder)
    if any((folder / split).is_dir() for split in SPLITS):
        return FolderLayout(folder)
    raise DataError(f"data.manual_dir: {folder} does not hold mini-ImageNet; it must be {FORMS}.")


class CsvLayout(Layout):
    """Form (a)."""

    def __init__(self, folder: Path) -> None:
        listing = {split: _read_csv(_csv(folder, split)) for split in SPLITS}
        check_listing(listing, {split: str(_csv(folder, split)) for split in SPLITS})
        self.listing = listing
        self._folder = folder
        self._places = _find_images(folder)
        self._check_places()

    def pictures(self, split: str) -> Iterator[Picture]:
        """See `Layout`."""
        with contextlib.ExitStack() as stack:
            archives: dict[Path, Any] = {}
            for class_name, names in self.listing[split].items():
                for name in names:
                    place, member = self._places[name]
                    if not member:
                        yield Picture(class_name, name, str(place), read_bytes(place))
                        continue
                    if place not in archives:
                        archives[place] = stack.enter_context(open_zip(place))
                    encoded = read_member(archives[place], member)
                    yield Picture(class_name, name, f"{place}:{member}", encoded)

    def _check_places(self) -> None:
        listed: set[str] = set()
        for split, classes in self.listing.items():
            for class_name, names in classes.items():
                if again := listed.intersection(names):
                    raise DataError(
                        f"{_csv(self._folder, split)} lists {min(again)}, which another of the three files "
                        "lists too; splits must not share pictures."
                    )
                listed.update(names)
                missing = [name for name in names if name not in self._places]
                if missing:
                    raise DataError(
                        f"{_csv(self._folder, split)} lists {missing[0]} of class {class_name}, which is neither "
                        f"in {self._folder / 'images'} nor in a zip archive of {self._folder} "
                        f"({len(missing)} of this class are missing)."
                    )
        report_strays(self._folder, [name for name in self._places if name not in listed])


class FolderLayout(Layout):
    """Form (b)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, dict[str, list[Path]]] = {}
        for split in SPLITS:
            if not (folder / split).is_dir():
                raise DataError(
                    f"{folder} has no folder {split}; mini-ImageNet as class folders needs {', '.join(SPLITS)}."
                )
            self._paths[split] = scan_classes(folder / split)
        report_strays(folder, [p.name for p in subfolders(folder) if p.name not in SPLITS])
        self.listing = {
            split: {name: [path.name for path in paths] for name, paths in classes.items()}
            for split, classes in self._paths.items()
        }
        check_listing(self.listing, {split: str(folder / split) for split in SPLITS})

    def pictures(self, split: str) -> Iterator[Picture]:
        """See `Layout`."""
        for class_name, paths in self._paths[split].items():
            for path in paths:
                yield Picture(class_name, f"{class_name}/{path.name}", str(path), read_bytes(path))


class PickleLayout(Layout):
    """Form (c); a file is read twice, so that one split's arrays are in memory at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.listing = {}
        for split in SPLITS:
            _, rows = _read_pickle(_pickle(folder, split))
            self.listing[split] = {
                name: [str(row) for row in found] for name, found in rows.items()
            }
        check_listing(self.listing, {split: str(_pickle(folder, split)) for split in SPLITS})

    def pictures(self, split: str) -> Iterator[Picture]:
        """See `Layout`."""
        path = _pickle(self._folder, split)
        images, rows = _read_pickle(path)
        for class_name, found in rows.items():
            for row in found:
                yield Picture(class_name, str(row), f"{path}[{row}]", as_png(images[row]))


def as_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] pixels without loss, for speed and not for size."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png", compress_level=1)
    return file.getvalue()


def check_listing(
    listing: Mapping[str, Mapping[str, Sequence[Any]]], origins: Mapping[str, str]
) -> None:
    """Checks for 64/16/20 classes of 600 pictures, no class in two splits.

    Args:
        listing: by split and class.
        origins: what each split was read from, for the message.

    Raises:
        DataError: names the origin and what differs.
    """
    home: dict[str, str] = {}
    for split, classes in listing.items():
        origin = origins[split]
        if len(classes) != CLASSES[split]:
            raise DataError(
                f"mini-ImageNet: {origin} has {len(classes)} classes; the {split} split must have "
                f"{CLASSES[split]} classes of {IMAGES_PER_CLASS} pictures."
            )
        for name, pictures in classes.items():
            if name in home:
                raise DataError(
                    f"mini-ImageNet: class {name} is in {origins[home[name]]} and in {origin}; splits must "
                    "have different classes."
                )
            home[name] = split
            if len(pictures) != IMAGES_PER_CLASS:
                raise DataError(
                    f"mini-ImageNet: {origin} has {len(pictures)} pictures of class {name}; every class "
                    f"must have {IMAGES_PER_CLASS}."
                )


def _csv(folder: Path, split: str) -> Path:
    return folder / f"{split}.csv"


def _pickle(folder: Path, split: str) -> Path:
    return folder / f"mini-imagenet-cache-{split}.pkl"


def _read_csv(path: Path) -> Listing:
    """Reads ``filename,label`` lines; a repeated line counts once and is reported."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist; Ravi & Larochelle's train.csv, val.csv and test.csv must lie together."
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file ({error}).") from error
    if not rows or rows[0] != _HEADER:
        raise DataError(
            f"{path} must begin with the line 'filename,label'; it is not the original file."
        )
    listing: Listing = {}
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
        logging.warning("%s lists %d pictures twice, such as %s.", path, len(repeated), repeated[0])
    return dict(sorted(listing.items()))


def _find_images(folder: Path) -> dict[str, tuple[Path, str]]:
    """Where each picture lies, by file name: (file, "") or (archive, member)."""
    images = folder / "images"
    if images.is_dir():
        return {
            path.name: (path, "")
            for path in sorted(images.rglob("*"))
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        }
    archives = sorted(folder.glob("*.zip"))
    if not archives:
        raise DataError(
            f"{folder} has neither a folder images nor a zip archive; the pictures listed in train.csv, "
            "val.csv and test.csv must lie in one of them."
        )
    places: dict[str, tuple[Path, str]] = {}
    repeated = []
    for path in archives:
        with open_zip(path) as archive:
            for member in archive.namelist():
                inside = PurePosixPath(member)
                if inside.suffix.lower() not in SUFFIXES or inside.parts[0] == "__MACOSX":
                    continue
                if inside.name in places:
                    repeated.append(f"{path}:{member}")
                else:
                    places[inside.name] = (path, member)
    if repeated:
        logging.warning(
            "%d pictures are in the archives twice, such as %s; the first one of each name is used.",
            len(repeated),
            repeated[0],
        )
    return places


def _read_pickle(path: Path) -> tuple[np.ndarray, dict[str, list[int]]]:
    """The pictures uint8 [n, H, W, 3] and the rows of each class, sorted by class."""
    content = load_arrays(path)
    try:
        content = {_text(key): value for key, value in content.items()}
        images = content["image_data"]
        rows = {
            _text(name): np.asarray(found).astype(np.int64, casting="same_kind").ravel().tolist()
            for name, found in content["class_dict"].items()
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
    every = [row for found in rows.values() for row in found]
    if len(set(every)) != len(every) or any(not 0 <= row < len(images) for row in every):
        raise DataError(
            f"{path}: class_dict names rows twice or beyond the {len(images)} pictures of image_data."
        )
    if len(every) < len(images):
        logging.warning("%s has %d pictures of no class.", path, len(images) - len(every))
    return images, dict(sorted(rows.items()))


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
