"""Pickles with the images of a split each, as published few-shot sets are passed on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from mamlpp_jax.data.readers.images import ImageLoader, decode_rgb
from mamlpp_jax.data.readers.layout import Layout, Listing, checked
from mamlpp_jax.data.readers.pickles import load_arrays
from mamlpp_jax.errors import DataError
from mamlpp_jax.utils.memory import host_memory, memory_text

IMAGES_PNG = "_images_png"  # encoded images; labels are in a file of their own


def pickle_layout(pickles: dict[str, Path]) -> Layout:
    """A pickle per split. Each is read twice, so that the images of one split are in memory at a time."""
    listing: Listing = {}
    files = list(pickles.values())
    rows_of: dict[str, dict[str, list[int]]] = {}
    for split, path in pickles.items():
        if limit := host_memory():
            size = path.stat().st_size
            if size > limit:
                raise DataError(
                    f"{path} has {memory_text(size)}, which is read at once, but this machine has {memory_text(limit)} "
                    "of memory."
                )
        rows_of[split] = _pickled_rows(split, path)
        listing[split] = {name: list(map(str, rows)) for name, rows in rows_of[split].items()}
        files += [labels] if (labels := _labels_file(path)) else []

    def read(split: str) -> Iterator[tuple[str, list[ImageLoader]]]:
        images = _pickled_images(pickles[split])
        for class_name, rows in rows_of[split].items():
            if max(rows) >= len(images):
                raise DataError(f"{pickles[split]} has {len(images)} images; its labels name more.")
            yield (
                class_name,
                [partial(_decoded, images[row], f"{pickles[split]}[{row}]") for row in rows],
            )

    return Layout(checked(listing, pickles), read, pickles, files)


def _labels_file(path: Path) -> Path | None:
    if not path.stem.endswith(IMAGES_PNG):
        return None
    return path.with_stem(path.stem.removesuffix(IMAGES_PNG) + "_labels")


def _decoded(image: np.ndarray, origin: str) -> Image.Image:
    return Image.fromarray(image) if image.ndim == 3 else decode_rgb(image.tobytes(), origin)


def _pickled(path: Path) -> dict[str, Any]:
    content = load_arrays(path)
    return {_text(k): v for k, v in content.items()} if isinstance(content, dict) else {"": content}


def _pickled_images(path: Path) -> Any:
    """Images uint8 [n, H, W, 3], or n encoded ones, uint8 [bytes] or [bytes, 1]."""
    content = _pickled(path)
    images = content.get("image_data", content.get("data", content.get("")))
    if _labels_file(path):
        ok = isinstance(images, list) and all(
            isinstance(i, np.ndarray) and i.dtype == np.uint8 and i.ndim < 3 for i in images
        )
        if not ok:
            raise DataError(f"{path} must hold a list of encoded images, uint8 arrays of bytes.")
        return images
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] != 3
        or 0 in images.shape
    ):
        raise DataError(f"{path}: its images must be a uint8 array [n, H, W, 3], not empty.")
    return images


def _pickled_rows(split: str, path: Path) -> dict[str, list[int]]:
    """The rows of each class, sorted by class; numbers, which another split may repeat, are named after their split."""
    labels_file = _labels_file(path)
    content, count = _pickled(labels_file or path), 0
    try:
        if "class_dict" in content:
            rows = {
                _text(name): np.asarray(members)
                .astype(np.int64, casting="same_kind")
                .ravel()
                .tolist()
                for name, members in content["class_dict"].items()
            }
        else:
            labels = np.asarray(content["label_specific" if labels_file else "labels"])
            labels = labels.astype(np.int64, casting="same_kind").ravel()
            names = [_text(name) for name in content.get("label_specific_str", ())]
            rows = {
                " ".join([f"{split}-{label:03d}", *names[label : label + 1]]): np.flatnonzero(
                    labels == label
                ).tolist()
                for label in np.unique(labels).tolist()
            }
        count = len(labels) if labels_file else len(_pickled_images(path))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{labels_file or path} must hold a dictionary with image_data and class_dict (rows by class), with data "
            f"and labels, or with label_specific; it does not ({type(error).__name__}: {error})."
        ) from error
    every = [row for members in rows.values() for row in members]
    if len(set(every)) != len(every) or any(not 0 <= row < count for row in every):
        raise DataError(f"{path}: rows are named twice or beyond its {count} images.")
    if len(every) < count:
        logging.warning("%s has %d images of no class.", path, count - len(every))
    return dict(sorted(rows.items()))


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
