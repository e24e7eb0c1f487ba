"""A synthetic data set: letters of many scripts, rendered in the typefaces that matplotlib ships.

It needs no download, so that training can be tried at once. There is one class per letter. Its images
use all typefaces that have the letter in turn, each image a little rotated, sheared, stretched, shifted
and thickened or thinned. Letters that look alike (Latin A, Greek Alpha, Cyrillic A) are one class.
"""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageFont

from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.readers.images import empty_images
from mamlpp_jax.errors import DataError

INSTANCES_PER_CLASS = 20
MIN_FACES = 4
# In the order of the images of a class. The first one that has a letter decides what it looks like.
FACES = (
    "DejaVuSans",
    "DejaVuSerif",
    "DejaVuSansMono",
    "DejaVuSans-Oblique",
    "DejaVuSerif-Italic",
    "DejaVuSansMono-Oblique",
    "DejaVuSans-Bold",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif-BoldItalic",
    "DejaVuSansMono-BoldOblique",
)

_SEED = 20190506
_FONT_PIXELS = 96  # a letter is rendered once per face at this size, ...
_LETTER_SIDE = 64  # ... resized to this longest side, ...
_OVERSAMPLING = 3  # ... and deformed on a canvas with this many times the image's resolution.
_LETTER_SHARE = 0.68  # longest side of an undeformed letter, as a share of the image
_MAX_ROTATION = np.deg2rad(7.0)
_MAX_SHEAR = 0.1
_MAX_LOG_SCALE = 0.11  # of width and height separately
_MAX_SHIFT = 0.05  # share of the image
_NUM_RANDOM = 8  # random numbers per image
_SIGNATURE_SIDE = 16
_ALIKE = 0.08  # relative squared distance of two signatures below which letters look alike
_MANY = 200  # letters that are worth a second process


class _Face(NamedTuple):
    font: ImageFont.FreeTypeFont
    code_points: frozenset[int]  # that it has glyphs for


def build(data_config: Any) -> Dataset:
    """Renders the whole set: one class per letter, 20 images each, with `data_config.image_size` pixels a side."""
    return render(None, int(data_config.image_size))


def render(code_points: Iterable[int] | None, image_size: int = 28) -> Dataset:
    """Renders the letters of some code points, or of all: uint8 [T, image_size, image_size, 1], ink 255.

    Code points that are no letters or in too few typefaces are left out; a `DataError` where none remains. The images
    of a class depend on its letter alone. From several letters that look alike, the one with the smallest code point is
    taken. Classes are named like ``U+0041 LATIN CAPITAL LETTER A``.
    """
    faces = _load_faces()
    references = {}
    for point in _letters(faces, code_points):
        first = next(face for face in faces if point in face.code_points)
        if letter := _letter(first, point):
            references[point] = letter
    classes = {
        f"U+{point:04X} {unicodedata.name(chr(point), '')}".rstrip(): point
        for point in _without_look_alikes(references)
    }
    if not classes:
        raise DataError("Data set 'glyphs': none of the code points is a letter in enough faces.")
    names = tuple(sorted(classes))
    sizes = np.full(len(names), INSTANCES_PER_CLASS, np.int32)
    images = empty_images(sizes.sum(), image_size, 1)
    _render_classes(faces, [classes[name] for name in names], images[..., 0])
    return Dataset("glyphs", images, names, sizes)


def _load_faces() -> list[_Face]:
    """Opens the fonts and reads which code points each one has."""
    import matplotlib
    from matplotlib import ft2font

    faces = []
    for name in FACES:
        path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
        try:
            # Glyph 0 is the placeholder for a missing letter.
            charmap = ft2font.FT2Font(str(path)).get_charmap()
            points = frozenset(point for point, glyph in charmap.items() if glyph != 0)
            # The basic layout does not depend on the shaping library that is installed.
            font = ImageFont.truetype(str(path), _FONT_PIXELS, layout_engine=ImageFont.Layout.BASIC)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"Font {path} cannot be read ({error}); the data set 'glyphs' needs the DejaVu "
                "fonts that matplotlib is published with. Install matplotlib from PyPI."
            ) from error
        faces.append(_Face(font, points))
    return faces


def _letters(faces: list[_Face], code_points: Iterable[int] | None) -> list[int]:
    """The candidates that are letters, no superscripts or subscripts, and in enough faces, sorted."""
    if code_points is None:
        code_points = frozenset().union(*(face.code_points for face in faces))
    return sorted(
        point
        for point in set(code_points)
        if unicodedata.category(chr(point)) in ("Lu", "Ll", "Lt", "Lo")
        and not unicodedata.decomposition(chr(point)).startswith(("<super>", "<sub>"))
        and sum(point in face.code_points for face in faces) >= MIN_FACES
    )


def _letter(face: _Face, point: int) -> Image.Image | None:
    """Renders a letter, cropped to its ink and resized to a common size; None when it is blank."""
    mask = face.font.getmask(chr(point), mode="L")
    if 0 in mask.size:
        return None
    image = Image.frombytes("L", mask.size, bytes(mask))
    box = image.getbbox()
    if box is None:
        return None
    image = image.crop(box)
    scale = _LETTER_SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _without_look_alikes(references: Mapping[int, Image.Image]) -> list[int]:
    """The first of every group of letters that look alike."""
    distinct: list[int] = []
    signatures = np.empty((len(references), _SIGNATURE_SIDE**2), np.float32)
    for point, letter in references.items():
        signature = _signature(letter)
        distances = np.square(signatures[: len(distinct)] - signature).sum(axis=1)
        if not (distances < _ALIKE * np.square(signature).sum()).any():
            signatures[len(distinct)] = signature
            distinct.append(point)
    return distinct


def _signature(letter: Image.Image) -> np.ndarray:
    """A coarse image of a letter, centred in a square: float32 [side * side]."""
    square = Image.new("L", (_LETTER_SIDE, _LETTER_SIDE))
    square.paste(letter, ((_LETTER_SIDE - letter.width) // 2, (_LETTER_SIDE - letter.height) // 2))
    small = square.resize((_SIGNATURE_SIDE, _SIGNATURE_SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel()


def _render_classes(faces: list[_Face], points: list[int], images: np.ndarray) -> None:
    """Fills uint8 [T, image_size, image_size] with the images of letters, half of many by a second process.

    Pillow holds Python's lock while it deforms an image, so threads would not help.
    """
    each = images.reshape(len(points), INSTANCES_PER_CLASS, *images.shape[1:])

    def render(part: slice) -> None:
        for members, point in zip(each[part], points[part], strict=True):
            members[...] = _render_class(faces, point, images.shape[1])

    if len(points) < _MANY or (os.cpu_count() or 1) < 2 or getattr(sys, "frozen", False):
        render(slice(None))
        return
    here, there = slice(len(points) // 2), slice(len(points) // 2, None)
    numbers = map(str, (images.shape[1], *points[there]))
    with subprocess.Popen(
        [sys.executable or "python", "-P", "-m", __name__, *numbers],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            render(here)
            pixels, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode or len(pixels) != each[there].nbytes:
        render(there)
    else:
        each[there] = np.frombuffer(pixels, np.uint8).reshape(each[there].shape)


def _render_class(faces: list[_Face], point: int, image_size: int) -> np.ndarray:
    """Renders all images of one letter: uint8 [INSTANCES_PER_CLASS, image_size, image_size]."""
    letters = [_letter(face, point) for face in faces if point in face.code_points]
    rendered = [letter for letter in letters if letter is not None]
    # Numbers in [-1, 1) that depend on the code point only, from raw bits, which NumPy guarantees never to change.
    bits = np.random.PCG64([_SEED, point]).random_raw(INSTANCES_PER_CLASS * _NUM_RANDOM)
    random = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    return np.stack(
        [
            _deform(rendered[instance % len(rendered)], numbers, image_size)
            for instance, numbers in enumerate(random.reshape(INSTANCES_PER_CLASS, _NUM_RANDOM))
        ]
    )


def _deform(letter: Image.Image, random: np.ndarray, image_size: int) -> np.ndarray:
    """One image of a letter from ``_NUM_RANDOM`` random numbers in [-1, 1)."""
    angle, shear, width, height, right, down, weight, softness = random.tolist()
    canvas = image_size * _OVERSAMPLING
    angle *= _MAX_ROTATION
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slant = np.array([[1.0, shear * _MAX_SHEAR], [0.0, 1.0]])
    stretch = np.exp(np.array([width, height]) * _MAX_LOG_SCALE)
    forward = rotation @ slant @ np.diag(stretch * _LETTER_SHARE * canvas / _LETTER_SIDE)
    # Pillow takes the inverse map, from the canvas to the letter.
    backward = np.linalg.inv(forward)
    centre = canvas * (0.5 + np.array([right, down]) * _MAX_SHIFT)
    offset = np.array(letter.size) / 2.0 - backward @ centre
    image = letter.transform(
        (canvas, canvas),
        Image.Transform.AFFINE,
        (*backward[0], offset[0], *backward[1], offset[1]),
        Image.Resampling.BICUBIC,
    )
    # Blurring, then sharpening around a grey other than the middle one, moves the edge of the stroke.
    image = image.filter(ImageFilter.GaussianBlur(canvas / 84.0 * (1.1 + 0.4 * softness)))
    greys = 127.5 + (np.arange(256) - 95.0 - 45.0 * weight) * 2.5
    image = image.point(np.clip(np.rint(greys), 0, 255).astype(int).tolist())
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.LANCZOS))


def _main() -> None:
    """Writes the images of letters to standard output; arguments: their pixels a side, then code points."""
    image_size, *points = map(int, sys.argv[1:])
    faces = _load_faces()
    # Nothing is written before the end: the other process reads only when its own share is done.
    pixels = b"".join(_render_class(faces, point, image_size).tobytes() for point in points)
    sys.stdout.buffer.write(pixels)


if __name__ == "__main__":
    _main()
