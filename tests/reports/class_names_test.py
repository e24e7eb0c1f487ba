"""Class names in any script; which fonts are installed differs, matplotlib's own are always there."""

import warnings

import pytest

from mamlpp_jax.reports import canvas
from mamlpp_jax.reports.canvas import Canvas, display_width, displayable, families
from tests.helpers.figures import pixels, texts

# A character of STIXGeneral that DejaVu Sans lacks; one that Unicode will never give a meaning.
OF_ANOTHER_FONT, OF_NO_FONT = "\u3012", "\ufdd0"


def test_characters_of_the_default_font_stay_in_it():
    name = "Sanskrit/character01 \N{GREEK SMALL LETTER ALPHA} \N{CHECK MARK}"
    assert displayable(name) == name
    assert families(name) == ["DejaVu Sans"]


def test_another_font_is_used_where_one_has_the_character():
    assert displayable(f"a{OF_ANOTHER_FONT}") == f"a{OF_ANOTHER_FONT}"
    first, second = families(f"a{OF_ANOTHER_FONT}")
    assert first == "DejaVu Sans"
    assert second != first


def test_an_escape_stands_for_a_character_that_no_font_has():
    assert displayable(f"a{OF_NO_FONT}b") == "a\\ufdd0b"
    assert families(f"a{OF_NO_FONT}b") == ["DejaVu Sans"]


@pytest.mark.parametrize("has_font", [True, False])
def test_nothing_warns_of_a_missing_glyph(monkeypatch, has_font):
    name = f"{OF_ANOTHER_FONT}{OF_NO_FONT}\u732b\u306e\u7d75"
    if not has_font:
        fonts = [font for font in canvas._fonts() if font[0] == "DejaVu Sans"]
        monkeypatch.setattr(canvas, "_fonts", lambda: fonts)
        monkeypatch.setattr(canvas, "_font_of", canvas._font_of.__wrapped__)
    tiles = Canvas(4.0, 2.0, 0.5)
    tiles.row_name(3.0, 0.0, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(tiles.figure)
    (written,) = texts(tiles.figure.axes[0])
    assert "\\ufdd0" in written
    assert ("\\u732b" in written) or has_font
    # Escapes are not broken.
    assert all(len(part) >= 5 for line in written.split("\n") for part in line.split("\\")[1:])


def test_a_wide_character_takes_the_room_of_two():
    assert [display_width(text) for text in ("ab", "\u732b", "a\u732b")] == [2, 2, 3]
