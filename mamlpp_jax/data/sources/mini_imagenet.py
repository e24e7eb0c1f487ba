"""mini-ImageNet: 100 classes of 600 colour pictures, split 64/16/20 by Ravi and Larochelle (ICLR 2017).

Read through TFDS without TensorFlow, from the forms in which people have it (`mini_imagenet_files`): it may not
be downloaded freely. The pictures of a class are ordered by their pixels, so every form that holds the same
pixels gives the same arrays.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from mamlpp_jax.data.dataset import SPLITS, Dataset
from mamlpp_jax.data.readers import tfds_tools
from mamlpp_jax.data.readers.images import read_squares
from mamlpp_jax.data.sources.mini_imagenet_files import FORMS, check_listing, find_layout
from mamlpp_jax.errors import DataError

NAME = "mini_imagenet"
_WHAT = "mini-ImageNet"
_BUILDER = "mamlpp_mini_imagenet"


class Example(NamedTuple):
    """One encoded picture; ``origin`` names it in errors, ``name`` in reports."""

    origin: str
    name: str
    encoded: bytes


def build(data_config: Any, cache_dir: Path) -> Dataset:
    """Reads mini-ImageNet from the first place that is configured or present.

    These are: ``data.tfds_dir`` (prepared earlier by our builder), ``data.manual_dir`` (one of the forms of
    `mini_imagenet_files`), an earlier preparation in the cache.

    Args:
        data_config: has ``tfds_dir``, ``manual_dir`` ("" = unset) and ``image_size`` (pixels).
        cache_dir: writable folder for what TFDS prepares.

    Returns:
        100 classes of 600 colour pictures, with the published splits.

    Raises:
        DataError: a source is missing or broken.
    """
    size = int(data_config.image_size)
    if data_config.tfds_dir:
        return read_prepared(Path(data_config.tfds_dir).expanduser(), size)
    prepared_dir = cache_dir / "tfds"
    if data_config.manual_dir:
        folder = Path(data_config.manual_dir).expanduser()
        logging.info("Preparing mini-ImageNet from data.manual_dir=%s.", folder)
        prepare(folder, prepared_dir, size)
    elif _prepared_version(prepared_dir, size) is None:
        raise DataError(
            "mini-ImageNet cannot be downloaded (ImageNet's terms forbid it); set data.manual_dir to a folder "
            f"with {FORMS}."
        )
    return read_prepared(prepared_dir, size)


def prepare(manual_dir: Path, prepared_dir: Path, image_size: int) -> None:
    """Lets our TFDS builder prepare the data set.

    Args:
        manual_dir: folder of the raw files; only read.
        prepared_dir: TFDS root to prepare into; an earlier preparation at this size is replaced.
        image_size: side of the pictures in pixels.

    Raises:
        DataError: the raw files are missing or broken, or the preparation cannot be written.
    """
    layout = find_layout(manual_dir)  # Before TFDS is imported, which takes a while.
    tfds_tools.import_tfds(_WHAT)
    from mamlpp_jax.data.sources.mini_imagenet_builder import MamlppMiniImagenet, size_config

    version = prepared_dir / _BUILDER / f"{image_size}px" / str(MamlppMiniImagenet.VERSION)
    tfds_tools.prepare(
        lambda: MamlppMiniImagenet(
            layout=layout, data_dir=prepared_dir, config=size_config(image_size)
        ),
        version,
        manual_dir,
        _WHAT,
    )


def read_prepared(tfds_dir: Path, image_size: int) -> Dataset:
    """Reads a copy that our builder prepared.

    Args:
        tfds_dir: TFDS root; holds ``mamlpp_mini_imagenet/<size>px/<version>``.
        image_size: side of the pictures in pixels.

    Returns:
        100 classes of 600 pictures.

    Raises:
        DataError: the folder is missing, broken or incomplete, or a picture cannot be decoded.
    """
    folder = _prepared_version(tfds_dir, image_size)
    if folder is None:
        raise DataError(
            f"{tfds_dir} holds no mini-ImageNet prepared at {image_size} pixels; as data.tfds_dir it must have the "
            f"folder {_BUILDER}/{image_size}px. Set data.manual_dir to prepare it."
        )
    try:
        examples = _read_examples(folder)
    except Exception as error:  # TFDS, array_record and protobuf share no base class
        raise DataError(
            f"{folder} cannot be read as prepared mini-ImageNet ({error}); remove it to have it made again."
        ) from error
    check_listing(examples, {split: f"{folder} ({split})" for split in SPLITS})
    return assemble(examples, image_size)


def assemble(examples: Mapping[str, Mapping[str, Sequence[Example]]], image_size: int) -> Dataset:
    """Makes the data set from its encoded pictures, whatever their order.

    Args:
        examples: by split and class.
        image_size: side of the pictures in pixels.

    Raises:
        DataError: a picture cannot be decoded.
    """
    home = {name: split for split, classes in examples.items() for name in classes}
    class_names = tuple(sorted(home))
    ordered = [example for name in class_names for example in examples[home[name]][name]]
    images = read_squares(
        [(e.origin, functools.partial(bytes, e.encoded)) for e in ordered], image_size
    )
    sizes = np.array([len(examples[home[name]][name]) for name in class_names], np.int32)
    _report_duplicates(
        images,
        [f"{home[name]}/{e.name}" for name in class_names for e in examples[home[name]][name]],
    )
    for block in np.split(images, np.cumsum(sizes)[:-1]):
        block[:] = block[np.argsort([pixels.tobytes() for pixels in block], kind="stable")]
    return Dataset(
        name=NAME,
        images=images,
        class_names=class_names,
        class_sizes=sizes,
        class_splits=tuple(home[name] for name in class_names),
    )


def _report_duplicates(images: np.ndarray, names: Sequence[str]) -> None:
    """Warns of pictures with the same pixels; `names` are "<split>/<picture>"."""
    first: dict[bytes, str] = {}
    pairs = []
    for pixels, name in zip(images, names, strict=True):
        other = first.setdefault(hashlib.sha256(pixels.tobytes()).digest(), name)
        if other is not name:
            pairs.append((other, name))
    if pairs:
        logging.warning(
            "mini-ImageNet has %d pairs of identical pictures, %d of them across splits: %s.",
            len(pairs),
            sum(a.split("/")[0] != b.split("/")[0] for a, b in pairs),
            ", ".join(f"{a} = {b}" for a, b in pairs[:10]) + (", ..." if len(pairs) > 10 else ""),
        )


def _prepared_version(tfds_dir: Path, image_size: int) -> Path | None:
    return tfds_tools.latest_version(tfds_dir / _BUILDER / f"{image_size}px")


def _read_examples(folder: Path) -> dict[str, dict[str, list[Example]]]:
    builder = tfds_tools.import_tfds(_WHAT).builder_from_directory(folder)
    names = builder.info.features["label"].names
    result: dict[str, dict[str, list[Example]]] = {split: {} for split in SPLITS}
    for split, classes in result.items():
        for origin, example in tfds_tools.encoded_examples(builder, "image", (split,)):
            name = example["name"].decode()
            members = classes.setdefault(names[int(example["label"])], [])
            members.append(Example(f"{origin} ({name})", name, example["image"]))
        for members in classes.values():
            members.sort(key=lambda example: example.name)
    return result
