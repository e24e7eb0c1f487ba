"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

Read from the two official archives, packed or unpacked, or from a copy prepared by TFDS. Both give identical arrays:
classes are called ``<Alphabet>/character<NN>``, and the drawings of a class are ordered by their
pixels, because a prepared copy does not have their file names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from mamlpp_jax.data.cache import cache_folder
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.readers.archives import open_zip, read_member
from mamlpp_jax.data.readers.class_folders import scan_images
from mamlpp_jax.data.readers.download import download
from mamlpp_jax.data.readers.images import decode_grey, empty_images, square_ink
from mamlpp_jax.data.readers.tfds_tools import (
    encoded_examples,
    import_tfds,
    latest_version,
    wrap_tfds_errors,
)
from mamlpp_jax.errors import DataError

NUM_CLASSES = 1623
DRAWINGS_PER_CLASS = 20
_ORIGINAL_SIDE = 105  # pixels
_MEMBER = re.compile(r"(.+/)?[^/]+/character\d+/[^/]+\.png")
_Loader = Callable[[str], Image.Image]  # decodes one drawing; the class name is for errors


class Archive(NamedTuple):
    """One official archive: its name, its number of characters and the SHA-256 of the published file."""

    file: str
    num_classes: int
    sha256: str


URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
ARCHIVES = (
    Archive(
        "images_background.zip",
        964,
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    ),
    Archive(
        "images_evaluation.zip",
        659,
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
)


def build(data_config: Any) -> Dataset:
    """Reads Omniglot from ``data.tfds_dir``, else ``data.manual_dir``, else the archives downloaded."""
    size = int(data_config.image_size)
    if data_config.tfds_dir:
        logging.info("Reading Omniglot as prepared in data.tfds_dir=%s.", data_config.tfds_dir)
        return read_prepared(Path(data_config.tfds_dir).expanduser(), size)
    if data_config.manual_dir:
        folder = Path(data_config.manual_dir).expanduser()
        logging.info("Reading Omniglot from data.manual_dir=%s.", folder)
        _warn_of_unknown_checksums(folder)
    else:
        folder = cache_folder(data_config.cache_dir) / "downloads" / "omniglot"
        for archive in ARCHIVES:
            advice = f"Without a network, put {archive.file} into a folder and set data.manual_dir to it."
            download(URL + archive.file, folder / archive.file, archive.sha256, advice)
    return read_archives(folder, size)


def read_archives(folder: Path, image_size: int) -> Dataset:
    """Reads the two official archives, or their unpacked folders, which may lie deeper.

    They have ``*/<Alphabet>/character<NN>/<file>.png`` inside.
    """
    drawings: dict[str, list[_Loader]] = {}
    for known in ARCHIVES:
        path = folder / known.file
        if path.exists():
            members = _packed(path)
        else:
            path = next((p for p in sorted(folder.rglob(path.stem)) if p.is_dir()), path)
            members = _unpacked(path)
        _check_counts(
            members, known.num_classes, f"{'folder' if path.is_dir() else 'archive'} {path}"
        )
        for class_name, loaders in members.items():
            drawings.setdefault(class_name, []).extend(loaders)
    return _assemble(drawings, image_size, f"folder {folder}")


def _packed(path: Path) -> dict[str, list[_Loader]]:
    members: dict[str, list[_Loader]] = {}
    with open_zip(path) as archive:
        for name in sorted(archive.namelist()):
            parts = name.split("/")
            if parts[0] != "__MACOSX" and _MEMBER.fullmatch(name):
                loader = partial(_decode, read_member(archive, name), f"{path}:{name}")
                members.setdefault("/".join(parts[-3:-1]), []).append(loader)
    return members


def _unpacked(folder: Path) -> dict[str, list[_Loader]]:
    if not folder.is_dir():
        raise DataError(
            f"{folder} does not exist; the folder must hold the official Omniglot archives "
            f"{' and '.join(archive.file for archive in ARCHIVES)}, or be where they were unpacked. For other images "
            "use configs/image_folder.py."
        )
    members: dict[str, list[_Loader]] = {}
    for inside, paths in scan_images(folder).items():
        for path in paths:
            if _MEMBER.fullmatch(path.as_posix()):
                loader = partial(_decode, path.read_bytes(), str(path))
                members.setdefault("/".join(inside.parts[-2:]), []).append(loader)
    return members


def read_prepared(tfds_dir: Path, image_size: int) -> Dataset:
    """Reads a copy prepared by TFDS, ``omniglot/<version>`` in its root folder."""
    folder = latest_version(tfds_dir / "omniglot")
    if folder is None:
        raise DataError(
            f"{tfds_dir} holds no prepared Omniglot; the folder must be a TFDS root with "
            "omniglot/3.0.0 (dataset_info.json, features.json and array_record files) in it."
        )
    drawings: dict[str, list[_Loader]] = {}
    with wrap_tfds_errors(folder):
        builder = import_tfds("Omniglot").builder_from_directory(folder)
        names = [_class_name(name, folder) for name in builder.info.features["label"].names]
        for origin, example in encoded_examples(builder, "image", ("train", "test")):
            loader = partial(_decode, example["image"], origin)
            drawings.setdefault(names[int(example["label"])], []).append(loader)
    return _assemble(drawings, image_size, f"prepared copy {folder}")


def _assemble(drawings: Mapping[str, Sequence[_Loader]], image_size: int, origin: str) -> Dataset:
    """Decodes, orders and resizes the drawings of all classes."""
    _check_counts(drawings, NUM_CLASSES, origin)
    names = tuple(sorted(drawings))
    sizes = np.full(len(names), DRAWINGS_PER_CLASS, np.int32)
    images = empty_images(sizes.sum(), image_size, 1)
    for members, name in zip(np.split(images, len(names)), names, strict=True):
        decoded = sorted((load(name) for load in drawings[name]), key=Image.Image.tobytes)
        for row, image in enumerate(decoded):
            members[row, :, :, 0] = square_ink(image, image_size)
    return Dataset("omniglot", images, names, sizes)


def _decode(encoded: bytes, origin: str, class_name: str) -> Image.Image:
    """Decodes a drawing to mode "L", ink 0 and paper 255."""
    image = decode_grey(encoded, f"the drawing {origin} of class {class_name}")
    if image.size != (_ORIGINAL_SIDE, _ORIGINAL_SIDE):
        raise DataError(
            f"The drawing {origin} of class {class_name} has {image.width}x{image.height} pixels; "
            f"every Omniglot drawing has {_ORIGINAL_SIDE}x{_ORIGINAL_SIDE}."
        )
    return image


def _check_counts(drawings: Mapping[str, Sequence[Any]], num_classes: int, origin: str) -> None:
    if len(drawings) != num_classes:
        raise DataError(
            f"Omniglot {origin} holds {len(drawings)} characters; it must hold {num_classes} "
            f"characters of {DRAWINGS_PER_CLASS} drawings. For a part of it use configs/image_folder.py."
        )
    for name, members in sorted(drawings.items()):
        if len(members) != DRAWINGS_PER_CLASS:
            raise DataError(
                f"Omniglot {origin} holds {len(members)} drawings of {name}; every character must "
                f"have {DRAWINGS_PER_CLASS}."
            )


def _warn_of_unknown_checksums(folder: Path) -> None:
    """Warns of archives that are not the published files; their contents are verified anyway."""
    for archive in ARCHIVES:
        path = folder / archive.file
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}.") from error
        if digest != archive.sha256:
            logging.warning(
                "%s is not the published file (its SHA-256 is not %s); it is used as it is, after "
                "checking that it is undamaged and complete.",
                *(path, archive.sha256),
            )


def _class_name(tfds_name: str, folder: Path) -> str:
    """Converts TFDS's ``Greek_0`` to the archives' ``Greek/character01``: TFDS counts from 0."""
    match = re.fullmatch(r"(.+)_(\d+)", tfds_name)
    if match is None:
        raise DataError(
            f"{folder} has the label {tfds_name!r}; its label.labels.txt must list names like "
            "'Greek_0'."
        )
    return f"{match[1]}/character{int(match[2]) + 1:02d}"
