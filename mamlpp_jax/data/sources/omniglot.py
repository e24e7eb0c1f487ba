"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

Read through TFDS without TensorFlow, from a prepared copy or from the two official archives. Every
source gives identical arrays: classes are called ``<Alphabet>/character<NN>`` and the drawings of a
class are ordered by their pixels, because a prepared copy no longer knows their file names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.readers import download
from mamlpp_jax.data.readers.archives import open_zip, read_member
from mamlpp_jax.data.readers.images import decode_grey, resized_ink
from mamlpp_jax.data.readers.tfds_tools import encoded_examples, import_tfds, latest_version
from mamlpp_jax.data.readers.tfds_tools import prepare as tfds_prepare
from mamlpp_jax.errors import DataError
from mamlpp_jax.utils.files import remove_unfinished

NUM_CLASSES = 1623
DRAWINGS_PER_CLASS = 20
_SOURCE_SIDE = 105  # pixels, of every original picture
_MEMBER = re.compile(r"(.+/)?[^/]+/character\d+/[^/]+\.png")


class Archive(NamedTuple):
    """One official archive.

    Attributes:
        file: its file name.
        split: the TFDS split made from it.
        num_classes: characters in it.
        url: where it is published.
        sha256: checksum of the published file.
    """

    file: str
    split: str
    num_classes: int
    url: str
    sha256: str


_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
ARCHIVES = (
    Archive(
        "images_background.zip",
        "train",
        964,
        _URL + "images_background.zip",
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    ),
    Archive(
        "images_evaluation.zip",
        "test",
        659,
        _URL + "images_evaluation.zip",
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
)


class Drawing(NamedTuple):
    """One encoded picture; ``origin`` names it in errors."""

    origin: str
    encoded: bytes


def build(data_config: Any, cache_dir: Path) -> Dataset:
    """Reads Omniglot from the first place that is configured or present.

    These are: ``data.tfds_dir``, the archives in ``data.manual_dir``, an earlier preparation in the
    cache, the archives downloaded.

    Args:
        data_config: has ``tfds_dir``, ``manual_dir`` ("" = unset) and ``image_size`` (pixels).
        cache_dir: writable folder for downloads and what TFDS prepares from the archives.

    Returns:
        1623 classes of 20 pictures, grey.

    Raises:
        DataError: a source is missing or broken.
    """
    size = int(data_config.image_size)
    if data_config.tfds_dir:
        logging.info("Reading Omniglot as prepared in data.tfds_dir=%s.", data_config.tfds_dir)
        return read_prepared(Path(data_config.tfds_dir).expanduser(), size)
    prepared_dir = cache_dir / "tfds"
    if data_config.manual_dir:
        folder = Path(data_config.manual_dir).expanduser()
        logging.info("Reading Omniglot from the archives in data.manual_dir=%s.", folder)
        _warn_of_unknown_checksums(folder)
        prepare(folder, prepared_dir)
        return read_prepared(prepared_dir, size)
    if _prepared_version(prepared_dir) is not None:
        try:
            logging.info("Reading Omniglot as prepared earlier in %s.", prepared_dir)
            return read_prepared(prepared_dir, size)
        except DataError as error:
            logging.warning("Preparing Omniglot again: %s", error)
    folder = cache_dir / "downloads" / "omniglot"
    remove_unfinished(folder)
    for archive in ARCHIVES:
        download.fetch(
            archive.url,
            folder / archive.file,
            archive.sha256,
            f"Without a network, put {archive.file} into a folder and set data.manual_dir to it.",
        )
    prepare(folder, prepared_dir)
    return read_prepared(prepared_dir, size)


def prepare(archives_dir: Path, prepared_dir: Path) -> None:
    """Lets TFDS prepare the two archives.

    Args:
        archives_dir: folder of the archives; only read.
        prepared_dir: TFDS root to prepare into; an earlier preparation is replaced.

    Raises:
        DataError: an archive is missing or broken, or the preparation cannot be written.
    """
    # A look at the names first: it is quick, and its errors need not pass through TFDS.
    for archive in ARCHIVES:
        list_drawings(archives_dir / archive.file, archive.num_classes)

    import_tfds("Omniglot")
    from mamlpp_jax.data.sources.omniglot_builder import MamlppOmniglot

    version = prepared_dir / MamlppOmniglot.name / str(MamlppOmniglot.VERSION)
    tfds_prepare(lambda: MamlppOmniglot(data_dir=prepared_dir), version, archives_dir, "Omniglot")


def list_drawings(path: Path, num_classes: int) -> dict[str, list[str]]:
    """Lists an archive's pictures by class.

    Args:
        path: an official archive, ``*/<Alphabet>/character<NN>/<file>.png`` inside.
        num_classes: how many classes it must have.

    Returns:
        Sorted member names by class name, classes sorted.

    Raises:
        DataError: the archive is missing, broken, or has other counts.
    """
    members: dict[str, list[str]] = {}
    try:
        with open_zip(path) as archive:
            for name in sorted(archive.namelist()):
                parts = name.split("/")
                if parts[0] == "__MACOSX" or not _MEMBER.fullmatch(name):
                    continue
                members.setdefault("/".join(parts[-3:-1]), []).append(name)
    except DataError as error:
        if path.exists():
            raise
        raise DataError(
            f"{path} does not exist; the folder must hold the official Omniglot archives "
            f"{' and '.join(archive.file for archive in ARCHIVES)}."
        ) from error
    _check_counts(members, num_classes, f"archive {path}")
    return dict(sorted(members.items()))


def archive_drawings(path: Path, num_classes: int) -> Iterator[tuple[str, Drawing]]:
    """Reads an archive.

    Args:
        path: see ``list_drawings``.
        num_classes: see ``list_drawings``.

    Yields:
        Class name and drawing.

    Raises:
        DataError: the archive is missing, broken, or has other counts.
    """
    members = list_drawings(path, num_classes)
    with open_zip(path) as archive:
        for class_name, names in members.items():
            for name in names:
                yield class_name, Drawing(f"{path}:{name}", read_member(archive, name))


def read_prepared(tfds_dir: Path, image_size: int = 28) -> Dataset:
    """Reads a copy prepared by TFDS, by its own builder or by ours.

    Args:
        tfds_dir: TFDS root; holds ``omniglot/<version>`` or ``mamlpp_omniglot/<version>``.
        image_size: side of the pictures in pixels.

    Returns:
        1623 classes of 20 pictures.

    Raises:
        DataError: the folder is missing, broken or incomplete, or a picture cannot be decoded.
    """
    folder = _prepared_version(tfds_dir)
    if folder is None:
        raise DataError(
            f"{tfds_dir} holds no prepared Omniglot; the folder must be a TFDS root with "
            "omniglot/3.0.0 (dataset_info.json, features.json and array_record files) in it."
        )
    try:
        examples = list(_prepared_drawings(folder))
    except DataError:
        raise
    except Exception as error:  # TFDS, array_record and protobuf share no base class
        raise DataError(
            f"{folder} cannot be read as Omniglot prepared by TFDS ({error}); it must hold "
            "complete array_record files of the splits train and test."
        ) from error
    drawings: dict[str, list[Drawing]] = {}
    for class_name, drawing in examples:
        drawings.setdefault(class_name, []).append(drawing)
    return assemble(drawings, image_size, f"prepared copy {folder}")


def assemble(drawings: Mapping[str, Sequence[Drawing]], image_size: int, origin: str) -> Dataset:
    """Makes the data set from its encoded pictures, whatever their order.

    Args:
        drawings: by class name.
        image_size: side of the pictures in pixels.
        origin: names the source in errors.

    Returns:
        1623 classes of 20 pictures, uint8 [32460, image_size, image_size, 1].

    Raises:
        DataError: wrong counts, or a picture that cannot be decoded or is not 105x105.
    """
    _check_counts(drawings, NUM_CLASSES, origin)
    names = tuple(sorted(drawings))
    images = np.empty((len(names), DRAWINGS_PER_CLASS, image_size, image_size, 1), np.uint8)
    for row, name in enumerate(names):
        pictures = sorted((decode(name, d) for d in drawings[name]), key=Image.Image.tobytes)
        for column, picture in enumerate(pictures):
            images[row, column, :, :, 0] = resized_ink(picture, image_size)
    return Dataset(
        name="omniglot",
        images=images.reshape(-1, image_size, image_size, 1),
        class_names=names,
        class_sizes=np.full(len(names), DRAWINGS_PER_CLASS, np.int32),
    )


def decode(class_name: str, drawing: Drawing) -> Image.Image:
    """Decodes one drawing.

    Args:
        class_name: names the drawing in errors, as its origin does.
        drawing: the encoded picture.

    Returns:
        Pillow image of mode "L", ink 0 and paper 255.

    Raises:
        DataError: it cannot be decoded or is not 105x105.
    """
    what = f"the picture {drawing.origin} of class {class_name}"
    picture = decode_grey(drawing.encoded, what)
    if picture.size != (_SOURCE_SIDE, _SOURCE_SIDE):
        raise DataError(
            f"{what[0].upper()}{what[1:]} has {picture.size[0]}x{picture.size[1]} pixels; every "
            f"Omniglot picture has {_SOURCE_SIDE}x{_SOURCE_SIDE}."
        )
    return picture


def _check_counts(drawings: Mapping[str, Sequence[Any]], num_classes: int, origin: str) -> None:
    if len(drawings) != num_classes:
        raise DataError(
            f"Omniglot {origin} holds {len(drawings)} characters; it must hold {num_classes} "
            f"characters of {DRAWINGS_PER_CLASS} drawings."
        )
    for name, members in sorted(drawings.items()):
        if len(members) != DRAWINGS_PER_CLASS:
            raise DataError(
                f"Omniglot {origin} holds {len(members)} drawings of {name}; every character must "
                f"have {DRAWINGS_PER_CLASS}."
            )


def _warn_of_unknown_checksums(folder: Path) -> None:
    """Notes archives that are not the published files; their contents are verified anyway."""
    for archive in ARCHIVES:
        path = folder / archive.file
        try:
            known = not path.is_file() or download.sha256_of(path) == archive.sha256
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}.") from error
        if not known:
            logging.warning(
                "%s is not the published file (its SHA-256 is not %s); it is used as it is, after "
                "checking that it is undamaged and complete.",
                path,
                archive.sha256,
            )


def _prepared_version(tfds_dir: Path) -> Path | None:
    """Returns a prepared version below a TFDS root, TFDS's own first, or None."""
    for name in ("omniglot", "mamlpp_omniglot"):
        if version := latest_version(tfds_dir / name):
            return version
    return None


def _prepared_drawings(folder: Path) -> Iterator[tuple[str, Drawing]]:
    """Yields class name and drawing of every example below a prepared version's folder."""
    builder = import_tfds("Omniglot").builder_from_directory(folder)
    names = [_class_name(name, folder) for name in builder.info.features["label"].names]
    for origin, example in encoded_examples(builder, "image", ("train", "test")):
        yield names[int(example["label"])], Drawing(origin, example["image"])


def _class_name(tfds_name: str, folder: Path) -> str:
    """Turns TFDS's ``Greek_0`` into the archives' ``Greek/character01``: TFDS counts from 0."""
    match = re.fullmatch(r"(.+)_(\d+)", tfds_name)
    if match is None:
        raise DataError(
            f"{folder} has the label {tfds_name!r}; its label.labels.txt must list names like "
            "'Greek_0'."
        )
    return f"{match[1]}/character{int(match[2]) + 1:02d}"


def tfds_name(class_name: str) -> str:
    """Turns ``Greek/character01`` into TFDS's ``Greek_0``."""
    match = re.fullmatch(r"(.+)/character(\d+)", class_name)
    if match is None:
        raise DataError(
            f"Omniglot has no class {class_name!r}; names are like 'Greek/character01'."
        )
    return f"{match[1]}_{int(match[2]) - 1}"
