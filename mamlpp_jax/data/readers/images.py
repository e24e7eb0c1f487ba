"""Decoding and resizing of images with Pillow; a broken image is reported as a `DataError` that names it (`origin`)."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mamlpp_jax.errors import ConfigError, DataError
from mamlpp_jax.utils.memory import host_memory, memory_text
from mamlpp_jax.utils.terminal import tracked

# Formats of photographs that Pillow reads; with pillow-heif also those of telephones.
_HEIF_SUFFIXES = (".heic", ".heif")
_HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
_SUFFIXES = [".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
_SUFFIXES += [".avif", ".jfif", *(_HEIF_SUFFIXES if _HAS_HEIF else ())]
SUFFIXES = frozenset(_SUFFIXES)
# No other format is tried, whatever the suffix: Pillow hands PostScript to another program.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF")
_MAX_UINT12, _MAX_UINT16 = 4095, 65535

ImageLoader = Callable[[], Image.Image]  # reads and decodes one image to mode "RGB"


def decode_grey(encoded: bytes, origin: str) -> Image.Image:
    """Decodes an image file to mode "L"; a 1-bit image becomes 0 and 255."""
    return _decode(encoded, origin, lambda image: image.convert("L"))


def decode_rgb(encoded: bytes, origin: str) -> Image.Image:
    """Decodes an image of any sort to 8-bit colour, upright.

    Palettes and CMYK become RGB, grey becomes three equal channels, 16-bit grey is scaled to 8 bits, transparent parts
    become white, the orientation in the EXIF data is applied, and of an animation the first frame is taken. Other
    pixels have no known conversion and are refused.
    """
    if not encoded:
        raise DataError(f"Cannot decode {origin}: it is empty (0 bytes). Replace or remove it.")
    return _decode(encoded, origin, lambda image: _upright_rgb(image, origin))


def convert_rgb(image: Image.Image, origin: str) -> Image.Image:
    """Converts an opened image as `decode_rgb` does."""
    with _explain(origin):
        return _upright_rgb(image, origin)


def _decode(
    encoded: bytes, origin: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    formats: tuple[str, ...] = _FORMATS
    if _HAS_HEIF and encoded[4:8] == b"ftyp":
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats = (*_FORMATS, "HEIF")
    with _explain(origin), Image.open(io.BytesIO(encoded), formats=formats) as image:
        return convert(image)


@contextlib.contextmanager
def _explain(origin: str) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:  # whose text names an object in memory
        raise DataError(
            f"Cannot decode {origin}: it is no image of a known format ({', '.join(_FORMATS)}). {heif_hint(origin)}"
        ) from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise DataError(
            f"Cannot decode {origin}: {error}. It must be a complete image file."
        ) from error


def heif_hint(name: str) -> str:
    """A sentence for files that need pillow-heif, where it is missing; else empty."""
    if _HAS_HEIF or not name.lower().endswith(_HEIF_SUFFIXES):
        return ""
    return "Photographs of this kind are read after `pip install 'mamlpp_jax[heif]'`."


def _upright_rgb(image: Image.Image, origin: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _from_deep_grey(image, origin)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image, origin: str) -> Image.Image:
    """Scales 16-bit grey to 8 bits; Pillow's own conversion would clip at 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _MAX_UINT16:
        raise ValueError("its grey values exceed 16 bits")
    if 0 < (most := int(values.max())) <= _MAX_UINT12:
        warnings.warn(
            f"{origin} has grey values of at most {most:,} in 16 bits, as cameras of 12 bits or less give them, and "
            f"looks almost black; multiply them by {_MAX_UINT16 // most}.",
            stacklevel=2,
        )
    return Image.fromarray(np.round(values / (_MAX_UINT16 / 255)).astype(np.uint8))


def square_rgb(image: Image.Image, size: int) -> np.ndarray:
    """Resizes an RGB image to uint8 [size, size, 3]; one that is not square is squeezed, nothing is cut off."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.uint8)


def square_ink(image: Image.Image, size: int) -> np.ndarray:
    """Resizes dark writing on white paper, mode "L", to uint8 [size, size], ink 255 and paper 0."""
    # LANCZOS widens its filter when it shrinks, so thin strokes turn grey instead of breaking up.
    small = image.resize((size, size), Image.Resampling.LANCZOS)
    return 255 - np.asarray(small, dtype=np.uint8)


def empty_images(count: int, size: int, channels: int) -> np.ndarray:
    """Uninitialised uint8 [count, size, size, channels]; a `ConfigError` where they exceed the machine's memory."""
    needed, limit = count * size**2 * channels, host_memory()
    if limit and needed > limit:
        raise ConfigError(
            f"config.data.image_size is {size}: {count:,} images of {size}x{size}x{channels} take "
            f"{memory_text(needed)}, but this machine has {memory_text(limit)} of memory; use a smaller size."
        )
    return np.empty((count, size, size, channels), np.uint8)


def load_squares(loaders: Sequence[ImageLoader], size: int) -> np.ndarray:
    """Loads and resizes images on all cores: uint8 [n, size, size, 3]."""
    squares = empty_images(len(loaders), size, 3)
    fill_rows(squares, lambda row: square_rgb(loaders[row](), size))
    return squares


def fill_rows(images: np.ndarray, load: Callable[[int], np.ndarray]) -> None:
    """Fills the rows of an array on all cores, with an image each."""

    def fill(row: int) -> None:
        images[row] = load(row)

    # Pillow decodes without holding the interpreter's lock.
    with ThreadPoolExecutor(min(len(images), os.cpu_count() or 1)) as pool:
        for _ in tracked(pool.map(fill, range(len(images))), len(images), "reading images"):
            pass


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Converts colour images, uint8 [n, H, W, 3], to the wanted number of channels.

    1 is grey by Pillow's weights and 3 is colour; 0 is grey where all channels are equal in every image, else colour.
    """
    if channels == 0:
        # Image by image: a comparison of all at once takes as much memory as they do.
        channels = 1 if all((image == image[..., :1]).all() for image in images) else 3
    if channels == 3:
        return images
    grey = np.empty((*images.shape[:3], 1), np.uint8)
    for row, image in enumerate(images):
        grey[row, ..., 0] = np.asarray(Image.fromarray(image).convert("L"))
    return grey
