"""Decoding and resizing of pictures with Pillow."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from mamlpp_jax.errors import DataError

# All that Pillow's decoders were seen to raise for damaged files; SyntaxError is how its PNG reader
# reports a broken chunk.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    Warning,  # of damage or size, where warnings are made errors
    Image.DecompressionBombError,
)
# What Pillow reads and people keep photographs in.
SUFFIXES = frozenset(
    [".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)
# No others are tried, whatever a file is called: Pillow would have PostScript drawn by another program.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
_DEEPEST = 65535  # the largest value of a 16-bit channel


def decode_grey(encoded: bytes, what: str) -> Image.Image:
    """Decodes a picture to 8-bit grey.

    Args:
        encoded: the contents of a PNG, JPEG ... file.
        what: how to name the picture in an error.

    Returns:
        A Pillow image of mode "L"; a 1-bit picture becomes 0 and 255.

    Raises:
        DataError: the bytes are not a picture.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            return image.convert("L")
    except _DECODE_ERRORS as error:
        raise DataError(
            f"Cannot decode {what}: {error}. It must be a complete picture file."
        ) from error


def resized_ink(image: Image.Image, size: int) -> np.ndarray:
    """Resizes dark writing on white paper and inverts it.

    Args:
        image: Pillow image of mode "L".
        size: side of the result in pixels.

    Returns:
        uint8 [size, size], ink 255 and paper 0.
    """
    # LANCZOS widens its filter when it shrinks, so thin strokes turn grey instead of breaking up.
    small = image.resize((size, size), Image.Resampling.LANCZOS)
    return 255 - np.asarray(small, dtype=np.uint8)


def decode_colour(encoded: bytes, what: str) -> Image.Image:
    """Decodes a picture of any kind to 8-bit colour, upright.

    Palettes and CMYK become RGB, 16-bit grey is scaled to 8 bits, transparent parts lie on white,
    the camera's orientation is applied, and of an animation the first frame is taken.

    Args:
        encoded: the contents of a PNG, JPEG ... file.
        what: how to name the picture in an error.

    Returns:
        A Pillow image of mode "RGB"; a grey picture has three equal channels.

    Raises:
        DataError: the bytes are not a picture, or one without a known way to 8 bits.
    """
    if not encoded:
        raise DataError(f"Cannot decode {what}: it is empty (0 bytes).")
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except _DECODE_ERRORS as error:
        raise DataError(
            f"Cannot decode {what}: {error}. It must be a complete picture file."
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _from_deep_grey(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; Pillow's own conversion would clip at 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _DEEPEST:
        raise ValueError("its grey values exceed 16 bits")
    return Image.fromarray(np.round(values / (_DEEPEST / 255)).astype(np.uint8))


def to_square(image: Image.Image, size: int) -> np.ndarray:
    """The pixels of a picture, resized to a square unless it has that size already.

    Args:
        image: Pillow image of mode "RGB".
        size: side of the result in pixels.

    Returns:
        uint8 [size, size, 3]; a picture that was not square is squeezed, nothing is cut off.
    """
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.uint8)


def is_grey(pixels: np.ndarray) -> bool:
    """Tells whether colour pictures [..., 3] have equal channels everywhere."""
    red = pixels[..., 0]
    return bool((red == pixels[..., 1]).all() and (red == pixels[..., 2]).all())


def to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """One colour picture with the wanted number of channels.

    Args:
        pixels: uint8 [H, W, 3].
        channels: 1 for grey by Pillow's weights, 3 for colour.

    Returns:
        uint8 [H, W, channels].
    """
    if channels == 3:
        return pixels
    return np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.uint8)[..., None]


def read_squares(pictures: Sequence[tuple[str, Callable[[], bytes]]], size: int) -> np.ndarray:
    """Reads, decodes and resizes many pictures, on all cores.

    Args:
        pictures: for each what names it in errors, and what returns its file's contents.
        size: side of the results in pixels.

    Returns:
        uint8 [n, size, size, 3].

    Raises:
        DataError: a picture cannot be read or decoded; the first one is named.
    """
    squares = np.empty((len(pictures), size, size, 3), np.uint8)

    def read(row: int) -> None:
        what, encoded = pictures[row]
        squares[row] = to_square(decode_colour(encoded(), what), size)

    # Pillow decodes without holding the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(read, range(len(pictures))):
            pass
    return squares
