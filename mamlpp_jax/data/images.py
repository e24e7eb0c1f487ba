"""Decoding and resizing of pictures with Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

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
    Image.DecompressionBombError,
)


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
        with Image.open(io.BytesIO(encoded)) as image:
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
