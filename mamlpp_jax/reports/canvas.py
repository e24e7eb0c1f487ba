r"""matplotlib figures without pyplot (no global state, no display), and a canvas of image tiles with class names.

Class names may be in any script. A character that matplotlib's own font lacks (Chinese, Japanese, Korean, Devanagari
...) is drawn in an installed font that has it. Where there is none, its escape as in Python or JSON is written instead:
\u732b.
"""

from __future__ import annotations

import functools
import io
import pathlib
import re
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from mamlpp_jax.utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")
_DEFAULT = "DejaVu Sans"  # comes with matplotlib
# Fonts that come with it too and have a box for every character, or symbols at the places of letters.
_UNUSABLE = ("Last Resort", "cm", "STIXNon", "STIXSize")
_IMAGE = 0.92  # side of an image, in tiles
_LINE_LENGTH, _LINES = 17, 5  # of a class name
# Stays on one line: an escape, a character of a script without spaces, a word or a part of it, spaces.
_PIECE = re.compile(
    r"\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]"
    rf"|[^\s/_\\\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef-]{{1,{_LINE_LENGTH}}}[\s/_-]*|[\s/_-]+|\\"
)


def new_figure(width: float, height: float, constrained: bool = True) -> Figure:
    """An empty white figure, width and height in inches; `constrained`: axes placed to fit."""
    from matplotlib.figure import Figure

    layout: Any = "constrained" if constrained else None
    return Figure(figsize=(width, height), dpi=200, layout=layout, facecolor="white")


def save_figure(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure to a file, atomically; the suffix, one of `FORMATS`, is the format."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower())
    write_atomically(path, buffer.getvalue())


class Canvas:
    """One axes over a whole figure. Lengths are in tiles, an image with its margin; y grows downwards.

    An axes per image would take seconds to draw.
    """

    def __init__(self, width: float, height: float, inches: float, cmap: str = "gray") -> None:
        """Makes an empty canvas of so many tiles of so many inches; by the colour map "gray" a grey 0 is black."""
        self.figure = new_figure(inches * width, inches * height, constrained=False)
        self._axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, width), ylim=(height, 0))
        self._axes.axis("off")
        self._axes.set_autoscale_on(False)  # an image would move the limits to itself
        self._cmap = cmap

    def image(self, left: float, top: float, image: np.ndarray, **frame: Any) -> None:
        """Draws an image, [H, W, 1 or 3] in 0..1, into the tile at (left, top).

        `frame` has the properties of the line around it (color, linewidth, linestyle); there is no line without.
        """
        left, right = left + (1 - _IMAGE) / 2, left + (1 + _IMAGE) / 2
        top, bottom = top + (1 - _IMAGE) / 2, top + (1 + _IMAGE) / 2
        self._axes.imshow(
            image[..., 0] if image.shape[-1] == 1 else image,
            extent=(left, right, bottom, top),
            cmap=self._cmap,  # of grey images
            vmin=0.0,
            vmax=1.0,
            origin="upper",
            aspect="auto",
            interpolation="nearest",
        )
        if frame:
            x, y = (left, right, right, left, left), (top, top, bottom, bottom, top)
            self._axes.plot(x, y, solid_joinstyle="miter", **frame)

    def text(self, x: float, y: float, text: str, size: float, **style: Any) -> None:
        """Writes text at a point, as it is: a dollar sign in a class name starts no formula."""
        self._axes.text(x, y, text, size=size, parse_math=False, family=families(text), **style)

    def label(self, left: float, top: float, text: str) -> None:
        """Writes the heading of the column of images below this point."""
        self.text(left + (1 - _IMAGE) / 2, top - 0.06, text, size=6, va="bottom", color="#444444")

    def row_name(self, right: float, top: float, name: str) -> None:
        """Writes a class name, in any script, beside the row of images that begins at this point."""
        style = {"ha": "right", "va": "center", "linespacing": 1.1}
        self.text(right - 0.12, top + 0.5, _wrapped(name), size=5.5, **style)

    def divider(self, x: float, top: float, bottom: float) -> None:
        """Draws a vertical grey line."""
        self._axes.plot([x, x], [top, bottom], color="#bbbbbb", linewidth=0.8)


def _wrapped(name: str) -> str:
    """The name in a few lines, broken after spaces and punctuation; a long one loses its middle."""
    lines = [""]
    for piece in _PIECE.findall(displayable(name)):
        if lines[-1] and display_width(lines[-1] + piece.rstrip()) > _LINE_LENGTH:
            lines.append("")
        lines[-1] += piece
    if len(lines) > _LINES:  # the end of a name tells the classes of one family apart
        lines[_LINES - 2 : -1] = ["\N{HORIZONTAL ELLIPSIS}"]
    return "\n".join(line.strip() for line in lines)


def displayable(name: str) -> str:
    """The name with an escape for each character that no installed font has."""
    return "".join(
        character if _font_of(character) else character.encode("unicode_escape").decode()
        for character in name
    )


def families(text: str) -> list[str]:
    """The fonts that together have the characters of a text, the default one first."""
    return list(dict.fromkeys([_DEFAULT, *filter(None, map(_font_of, text))]))


def display_width(text: str) -> int:
    """The width of a text in Latin letters: a Chinese, Japanese or Korean character takes two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@functools.cache
def _font_of(character: str) -> str:
    """The name of the first font that has a character; "" where none has."""
    if character.isspace():
        return _DEFAULT
    having = (name for name, path in _fonts() if ord(character) in _characters(path))
    return next(having, "")


@functools.cache
def _fonts() -> list[tuple[str, str]]:
    """Name and file of the installed fonts: the default one first, upright and of normal weight before others."""
    from matplotlib import font_manager

    fonts = [f for f in font_manager.fontManager.ttflist if not f.name.startswith(_UNUSABLE)]
    fonts.sort(key=lambda f: (f.name != _DEFAULT, f.style != "normal", str(f.weight) != "400"))
    by_name: dict[str, str] = {}
    for font in fonts:
        by_name.setdefault(font.name, font.fname)
    return list(by_name.items())


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """The code points of a font; none where it has bitmaps only, as fonts of coloured emoji, or is broken."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (RuntimeError, OSError, ValueError):
        return frozenset()
