"""From whatever a user calls an image to the pixels that a model was trained on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from mamlpp_jax.data.readers.class_folders import read_rgb
from mamlpp_jax.data.readers.images import (
    convert_rgb,
    fill_rows,
    square_ink,
    square_rgb,
    with_channels,
)
from mamlpp_jax.errors import DataError

POLARITIES = ("auto", "dark_on_light", "light_on_dark")
_BORDER_SHARE = 16  # the border is this part of an image's shorter side, one pixel at least
_FLOAT_SLACK = 1e-3  # how far a float may lie outside 0..1 by rounding


class ImageFormat(NamedTuple):
    """The images of a model."""

    size: int  # height and width in pixels
    channels: int  # 1 grey, 3 colour
    mean: tuple[float, ...] = (0.0,)  # taken off pixels in 0..1, one per channel or one for all
    std: tuple[float, ...] = (1.0,)  # deviation they are divided by
    # For a model of writing, whose images have ink 255 on paper 0: which images are inverted; one of `POLARITIES`.
    # None for a model that takes images as they are.
    polarity: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.size, self.size, self.channels


def load_images(images: Any, image_format: ImageFormat) -> np.ndarray:
    """Reads, resizes and inverts images exactly as those of the training data were.

    Args:
        images: one image or several. An image is the path of a file, a Pillow image, or an array [H, W],
            [H, W, 1], [H, W, 3] or [H, W, 4] (alpha) of integers in 0..255, floats in 0..1 or booleans. An array of
            three axes whose last is 1, 3 or 4 long is one image. Sizes may differ within a list.
        image_format: what the model takes.

    Returns:
        uint8 [n, H, W, C]; an image that was not square is squeezed, nothing is cut off.

    Raises:
        DataError: there is no image, or one cannot be read; it is named.
    """
    singles = split_images(images)
    if not singles:
        raise DataError("There are no images; at least one is needed.")
    squares = np.empty((len(singles), *image_format.shape), np.uint8)
    fill_rows(squares, lambda row: _square(_rgb(singles[row], f"images[{row}]"), image_format))
    return squares


def split_images(images: Any) -> Sequence[Any]:
    """One image as a list of one, several as a list; anything else is a `DataError`. See `load_images`."""
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return [images]
    if hasattr(images, "__array__"):
        array = np.asarray(images)
        if array.dtype.kind in "OU":
            return list(array.ravel())
        if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4)):
            return [array]
        if array.ndim in (3, 4):
            return list(array)
        raise DataError(
            f"The images are an array of shape {array.shape}; it must be [H, W], [H, W, C], [n, H, W] or [n, H, W, C]."
        )
    if isinstance(images, Iterable) and not isinstance(images, (bytes, dict)):
        return list(images)
    raise DataError(
        f"The images are of type {type(images).__name__}; they must be paths, Pillow images or arrays, one or a list."
    )


def _rgb(image: Any, name: str) -> Image.Image:
    if isinstance(image, (str, os.PathLike)):
        return read_rgb(Path(image))
    return convert_rgb(image if isinstance(image, Image.Image) else _from_array(image, name), name)


def _from_array(image: Any, name: str) -> Image.Image:
    try:
        array = np.asarray(image)
    except ValueError as error:
        raise DataError(f"{name} is no array: {error}.") from error
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise DataError(
            f"{name} is a {type(image).__name__} of shape {array.shape}; an image must be a path, a Pillow image, or "
            "an array [H, W] or [H, W, C] of 1, 3 or 4 channels, none of them empty."
        )
    return Image.fromarray(_to_bytes(array, name))


def _to_bytes(array: np.ndarray, name: str) -> np.ndarray:
    """Pixels as uint8 in 0..255."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and array.min() >= -_FLOAT_SLACK and array.max() <= 1 + _FLOAT_SLACK:
        return np.rint(np.clip(array, 0.0, 1.0) * 255.0).astype(np.uint8)
    raise DataError(
        f"{name} is an array of {array.dtype} outside the allowed range; pixels must be integers in 0..255, floats in "
        "0..1 or booleans."
    )


def _square(image: Image.Image, image_format: ImageFormat) -> np.ndarray:
    """uint8 [H, W, C] of an image of mode "RGB"."""
    size, channels, *_, polarity = image_format
    if polarity is None:
        return with_channels(square_rgb(image, size)[None], channels)[0]
    grey = image.convert("L")
    is_dark_on_light = polarity == "dark_on_light" or (
        polarity == "auto" and _has_light_border(np.asarray(grey))
    )
    return square_ink(grey if is_dark_on_light else ImageOps.invert(grey), size)[..., None]


def _has_light_border(grey: np.ndarray) -> bool:
    """Returns True where most of the border [H, W] is nearer to the lightest pixel of the image than to the darkest."""
    width = max(1, min(grey.shape) // _BORDER_SHARE)
    inside = np.zeros(grey.shape, bool)
    inside[width:-width, width:-width] = True
    return 2 * float(np.median(grey[~inside])) >= float(grey.min()) + float(grey.max())
