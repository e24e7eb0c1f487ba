"""mini-ImageNet: 100 classes of 600 colour images, split 64/16/20 by Ravi and Larochelle (ICLR 2017).

It may not be downloaded freely, so it is read from any of the three forms in which people have it:

(a) ``images/`` (a folder, or zip archives holding it) and Ravi & Larochelle's ``train.csv``, ``val.csv``
and ``test.csv``; (b) the folders ``train``, ``val`` and ``test`` with a folder per class;
(c) ``mini-imagenet-cache-train.pkl``, ``-val.pkl`` and ``-test.pkl``.

The images of a class are ordered by their pixels, so every form that holds the same pixels gives the same
arrays.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sized
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from mamlpp_jax.data.dataset import SPLITS, Dataset
from mamlpp_jax.data.readers.archives import open_zip, read_member
from mamlpp_jax.data.readers.class_folders import read_rgb, report_strays, scan_classes, subfolders
from mamlpp_jax.data.readers.csv_files import read_csv
from mamlpp_jax.data.readers.images import (
    SUFFIXES,
    ImageLoader,
    decode_rgb,
    empty_images,
    load_squares,
)
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
Classes = dict[str, dict[str, ImageLoader]]  # loaders of the images by class and name


def build(data_config: Any) -> Dataset:
    """Reads 100 classes of 600 colour images, with the published splits, from ``data.manual_dir``."""
    if not data_config.manual_dir:
        raise DataError(
            "mini-ImageNet cannot be downloaded (ImageNet's terms forbid it); set data.manual_dir to a folder "
            f"with {FORMS}."
        )
    folder = Path(data_config.manual_dir).expanduser()
    logging.info("Reading mini-ImageNet from data.manual_dir=%s.", folder)
    with contextlib.ExitStack() as archives:
        return _assemble(find_classes(folder, archives), int(data_config.image_size))


def _assemble(by_split: Mapping[str, Classes], image_size: int) -> Dataset:
    """Decodes the images class by class."""
    split_of = {name: split for split, classes in by_split.items() for name in classes}
    class_names = tuple(sorted(split_of))
    class_splits = tuple(split_of[name] for name in class_names)
    loaders = [by_split[split_of[name]][name] for name in class_names]
    sizes = np.array([len(members) for members in loaders], np.int32)
    images = empty_images(int(sizes.sum()), image_size, 3)
    groups = np.split(images, np.cumsum(sizes)[:-1])
    for group, members in zip(groups, loaders, strict=True):
        group[:] = load_squares(list(members.values()), image_size)
    names = (
        f"{split}/{image}"
        for split, members in zip(class_splits, loaders, strict=True)
        for image in members
    )
    _report_duplicates(images, names)
    for group in groups:
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


def find_classes(folder: Path, archives: contextlib.ExitStack) -> dict[str, Classes]:
    """The classes of each split, in whichever form the folder has; it is only read.

    Images may be loaded until `archives` is closed. A folder that has none of the forms, or not 64/16/20 classes of
    600 images, is a `DataError`.
    """
    if not folder.is_dir():
        raise DataError(
            f"data.manual_dir: {folder} is no folder; it must hold mini-ImageNet: {FORMS}."
        )
    if any(_csv(folder, split).exists() for split in SPLITS):
        return _listed_in_csv_files(folder, archives)
    if any(_pickle(folder, split).exists() for split in SPLITS):
        pickled = {split: _read_pickle(_pickle(folder, split)) for split in SPLITS}
        _check_counts(pickled, partial(_pickle, folder))
        return pickled
    if any((folder / split).is_dir() for split in SPLITS):
        return _in_class_folders(folder)
    raise DataError(f"data.manual_dir: {folder} does not hold mini-ImageNet; it must be {FORMS}.")


def _listed_in_csv_files(folder: Path, archives: contextlib.ExitStack) -> dict[str, Classes]:
    listing = {split: _read_csv(_csv(folder, split)) for split in SPLITS}
    _check_counts(listing, partial(_csv, folder))
    loaders = _find_images(folder, archives)
    _check_images(folder, listing, loaders)
    return {
        split: {label: {name: loaders[name] for name in names} for label, names in classes.items()}
        for split, classes in listing.items()
    }


def _check_images(
    folder: Path, listing: Mapping[str, _Listing], loaders: Mapping[str, ImageLoader]
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
            missing = [name for name in names if name not in loaders]
            if missing:
                raise DataError(
                    f"{_csv(folder, split)} lists {missing[0]} of class {class_name}, which is neither "
                    f"in {folder / 'images'} nor in a zip archive of {folder} "
                    f"({len(missing)} of this class are missing)."
                )
    report_strays(folder, [name for name in loaders if name not in listed])


def _in_class_folders(folder: Path) -> dict[str, Classes]:
    by_split: dict[str, Classes] = {}
    for split in SPLITS:
        if not (folder / split).is_dir():
            raise DataError(
                f"{folder} has no folder {split}; mini-ImageNet as class folders needs {', '.join(SPLITS)}."
            )
        by_split[split] = {
            name: {f"{name}/{path.name}": partial(read_rgb, path) for path in paths}
            for name, paths in scan_classes(folder / split).items()
        }
    report_strays(folder, [p.name for p in subfolders(folder) if p.name not in SPLITS])
    _check_counts(by_split, lambda split: folder / split)
    return by_split


def _check_counts(
    by_split: Mapping[str, Mapping[str, Sized]], origin: Callable[[str], Path]
) -> None:
    """Checks for 64/16/20 classes of 600 images, no class in two splits; `origin` is the file or folder of a split."""
    split_of: dict[str, str] = {}
    for split, classes in by_split.items():
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


def _find_images(folder: Path, archives: contextlib.ExitStack) -> dict[str, ImageLoader]:
    """The loader of each image in the folder `images`, or in the zip archives, by file name."""
    images = folder / "images"
    loaders: dict[str, ImageLoader] = {}
    if images.is_dir():
        for path in sorted(images.rglob("*")):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                if path.name in loaders:
                    logging.warning("%s is left out: another image has its name.", path)
                loaders.setdefault(path.name, partial(read_rgb, path))
        return loaders
    paths = sorted(folder.glob("*.zip"))
    if not paths:
        raise DataError(
            f"{folder} has neither a folder images nor a zip archive; the images listed in train.csv, "
            "val.csv and test.csv must lie in one of them."
        )
    repeated = []
    for path in paths:
        archive = archives.enter_context(open_zip(path))
        for member in archive.namelist():
            inside = PurePosixPath(member)
            if inside.suffix.lower() not in SUFFIXES or inside.parts[0] == "__MACOSX":
                continue
            if inside.name in loaders:
                repeated.append(f"{path}:{member}")
            loaders.setdefault(inside.name, partial(_load_member, archive, member))
    if repeated:
        logging.warning(
            "%d images are in the archives twice, such as %s; the first one of each name is used.",
            len(repeated),
            repeated[0],
        )
    return loaders


def _load_member(archive: zipfile.ZipFile, member: str) -> Image.Image:
    return decode_rgb(read_member(archive, member), f"{archive.filename}:{member}")


def _read_pickle(path: Path) -> Classes:
    """The classes of a pickle, whose images have their rows as names."""
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
    return {
        name: {str(row): partial(Image.fromarray, images[row]) for row in members}
        for name, members in sorted(rows.items())
    }


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
