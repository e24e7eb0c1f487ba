"""From whatever a user calls an image to the pixels that a model was trained on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from mamlpp_jax.data.readers.class_folders import read_rgb
from mamlpp_jax.data.readers.images import (
    convert_rgb,
    decode_rgb,
    fill_rows,
    square_ink,
    square_rgb,
    with_channels,
)
from mamlpp_jax.errors import DataError
from mamlpp_jax.inference.labels import is_tensor, to_numpy

POLARITIES = ("auto", "dark_on_light", "light_on_dark")
_BORDER_SHARE = 16  # the border is this part of an image's shorter side, one pixel at least
_CHANNELS = (1, 3, 4)
_IMAGE_COLUMNS = ("image", "img", "pixel_values", "bytes", "path")  # of Hugging Face data sets
# A single array of two axes is an image unless its width is that of flattened squares of this side or more, and its
# shape (long to short) is none of these, or it is longer than this.
_MIN_SIDE, _USUAL_SHAPES, _MAX_ELONGATION = 8, ((1, 1), (5, 4), (4, 3), (3, 2), (16, 9)), 16
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


def load_images(
    images: Any,
    image_format: ImageFormat,
    errors: dict[int, DataError] | None = None,
    *,
    stack: bool = False,
) -> np.ndarray:
    """Reads, resizes and inverts images exactly as those of the training data were.

    Args:
        images: one image or several. An image is the path of a file, a file opened in binary mode or its bytes, a
            Pillow image, an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (alpha) of integers in 0..255, floats in
            0..1 or booleans, a torch tensor also with its channels first, or a row of a Hugging Face data set. An
            array of three axes whose last is 1, 3 or 4 long is one image. Sizes may differ within a list.
        image_format: what the model takes.
        errors: gets, by number, the errors of images that cannot be read, which are left out; None to raise the first.
        stack: whether an array [3, H, W] is known to be three grey images.

    Returns:
        uint8 [n, H, W, C]; an image that was not square is squeezed, nothing is cut off.

    Raises:
        DataError: there is no image, or one cannot be read; it is named.
    """
    singles = split_images(images, stack)
    if not len(singles):
        raise DataError("There are no images; at least one is needed.")
    squares = np.zeros((len(singles), *image_format.shape), np.uint8)

    def load(row: int) -> np.ndarray:
        try:
            return _square(_rgb(singles[row], f"images[{row}]"), image_format)
        except DataError as error:
            if errors is None:
                raise
            errors[row] = error
            return squares[row]

    fill_rows(squares, load)
    return np.delete(squares, list(errors), axis=0) if errors else squares


def split_images(images: Any, stack: bool = False) -> Sequence[Any]:
    """One image as a list of one, several as a list; anything else is a `DataError`. See `load_images`."""
    images = _opened(images, "The images")
    if isinstance(images, (str, os.PathLike, bytes, Image.Image)):
        return [images]
    if is_tensor(images) and images.ndim in (3, 4):
        first, last = images.shape[0] if images.ndim == 3 else 0, images.shape[-1]
        if stack and first in (3, 4):
            return list(images)
        if first == 4 and last not in _CHANNELS:
            raise DataError(
                f"The images are a tensor of shape {tuple(images.shape)}, which may be one image of four channels or "
                "four grey ones; give [1, 4, H, W] or [4, 1, H, W]."
            )
        is_one = images.ndim == 3 and (first in _CHANNELS or last in _CHANNELS)
        return [images] if is_one else list(images)
    if hasattr(images, "__array__"):
        array = np.asarray(to_numpy(images))
        if array.dtype.kind in "OUT":
            return [
                _opened(image, f"images[{n}]") for n, image in enumerate(array.ravel().tolist())
            ]
        if array.ndim == 2:
            _check_no_rows(array.shape)
        if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in _CHANNELS):
            return [array]
        if array.ndim == 3 and array.shape[0] == 3 and not stack:
            raise DataError(
                f"The images are an array of shape {array.shape}, which may be one image with its channels first or "
                "three grey ones; give channels last, [H, W, 3], and grey images as [3, H, W, 1]."
            )
        if array.ndim in (3, 4):
            return list(array)
        raise DataError(
            f"The images are an array of shape {array.shape}; it must be [H, W], [H, W, C], [n, H, W] or [n, H, W, C]."
        )
    if isinstance(images, Mapping):
        return split_images(_of_row(images, "The images"), stack)
    if isinstance(images, Iterable) and not isinstance(images, (set, frozenset)):
        return [_opened(image, f"images[{n}]") for n, image in enumerate(images)]
    raise DataError(
        f"The images are of type {type(images).__name__}; they must be paths, Pillow images or arrays, one or a list."
    )


def _check_no_rows(shape: tuple[int, int]) -> None:
    """Refuses flattened images; a single grey image of a usual shape passes."""
    rows, length = shape
    short, long = sorted(shape)
    sides = {math.isqrt(length), math.isqrt(length // 3)}
    could_be_flat = any(length in (side**2, 3 * side**2) for side in sides if side >= _MIN_SIDE)
    is_usual = any(short * wide == long * high for wide, high in _USUAL_SHAPES)
    if long > _MAX_ELONGATION * short or (could_be_flat and not is_usual):
        raise DataError(
            f"The images are an array of shape {shape}, which looks like {rows} rows of {length} numbers; reshape rows "
            f"to [{rows}, H, W, C], and give a single grey image as [{rows}, {length}, 1]."
        )


def _opened(image: Any, name: str) -> Any:
    """The bytes of an open file; anything else as it is."""
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if not callable(getattr(image, "read", None)):
        return image
    try:
        if image.seekable():
            image.seek(0)
        content = image.read()
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{name}: the open file cannot be read ({error}).") from error
    if not isinstance(content, bytes):
        raise DataError(
            f"{name}: the file is open as text; open it in binary mode, open(path, 'rb')."
        )
    return content


def _of_row(row: Mapping[Any, Any], name: str) -> Any:
    """The image of a row of a Hugging Face data set, or of the images that it stores undecoded."""
    columns = [key for key in _IMAGE_COLUMNS if row.get(key) is not None]
    if not columns:
        raise DataError(
            f"{name} has the columns {', '.join(map(repr, row)) or 'none'}; an image must be in the column 'image'."
        )
    return row[columns[0]]


def _rgb(image: Any, name: str) -> Image.Image:
    if isinstance(image, Mapping):
        return _rgb(_opened(_of_row(image, name), name), name)
    if isinstance(image, bytes):
        return decode_rgb(image, name)
    if isinstance(image, (str, os.PathLike)):
        return read_rgb(Path(image))
    return convert_rgb(image if isinstance(image, Image.Image) else _from_array(image, name), name)


def _from_array(image: Any, name: str) -> Image.Image:
    try:
        array = np.asarray(to_numpy(image))
    except (ValueError, TypeError) as error:
        raise DataError(f"{name} is no array: {error}.") from error
    if array.ndim == 3 and is_tensor(image) and array.shape[0] in _CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[0] in _CHANNELS and array.shape[-1] not in _CHANNELS:
        raise DataError(f"{name} has the shape {array.shape}; give channels last, [H, W, C].")
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
