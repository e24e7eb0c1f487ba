r"""Class names in any script, as figures can show them.

A character that matplotlib's own font lacks (Chinese, Japanese, Korean, Devanagari ...) is drawn in an installed font
that has it. Where there is none, its escape as in Python or JSON is written instead: \u732b.
"""

from __future__ import annotations

import functools
import unicodedata

_DEFAULT = "DejaVu Sans"  # comes with matplotlib
# Fonts that come with it too and have a box for every character, or symbols at the places of letters.
_UNUSABLE = ("Last Resort", "cm", "STIXNon", "STIXSize")


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
