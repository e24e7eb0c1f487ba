import numpy as np
import pytest
from PIL import Image

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.reports.canvas import Canvas, new_figure, save_figure
from tests.helpers.figures import boxes, pixels


def test_a_png_appears_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    save_figure(new_figure(2.0, 1.0), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 2 * image.height
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize(("suffix", "head"), [(".pdf", b"%PDF"), (".SVG", b"<?xml")])
def test_the_suffix_chooses_the_format(tmp_path, suffix, head):
    save_figure(new_figure(2.0, 1.0), tmp_path / f"figure{suffix}")
    assert (tmp_path / f"figure{suffix}").read_bytes().startswith(head)


def test_a_figure_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "gone" / "figure.png"
    with pytest.raises(WorkdirError, match=f"cannot write {path}: No such file"):
        save_figure(new_figure(2.0, 1.0), path)


def test_images_stand_upright_in_their_tile():
    image = np.zeros((8, 8, 3))
    colors = {"top left": (255, 0, 255), "top right": (0, 255, 255), "bottom left": (255, 255, 0)}
    image[:4, :4], image[:4, 4:], image[4:, :4] = np.array(list(colors.values())) / 255
    canvas = Canvas(3.0, 2.0, inches=0.5)
    canvas.image(2.0, 0.0, image)
    drawn = pixels(canvas.figure)
    centres = {
        place: np.argwhere((drawn == color).all(axis=-1)).mean(axis=0) / 100
        for place, color in colors.items()
    }
    for place, expected in {
        "top left": (0.27, 2.27),
        "top right": (0.27, 2.73),
        "bottom left": (0.73, 2.27),
    }.items():
        assert centres[place] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("cmap", "expected"), [("gray", 0), ("gray_r", 255)])
def test_grey_zero_is_black_or_with_the_reversed_map_white(cmap, expected):
    canvas = Canvas(1.0, 1.0, inches=1.0, cmap=cmap)
    canvas.image(0.0, 0.0, np.stack([np.zeros((4, 4)), np.ones((4, 4))]).reshape(8, 4, 1))
    drawn = pixels(canvas.figure)
    assert (drawn[60, 100] == expected).all()
    assert (drawn[140, 100] == 255 - expected).all()


def test_a_frame_goes_around_its_image():
    canvas = Canvas(2.0, 2.0, inches=0.5)
    canvas.image(1.0, 1.0, np.zeros((4, 4, 1)), color="red", linewidth=2.0)
    canvas.image(0.0, 0.0, np.zeros((4, 4, 1)))
    (frame,) = canvas.figure.axes[0].lines
    left, top, right, bottom = boxes(canvas.figure.axes[0])[0]
    x, y = frame.get_data()
    assert (min(x), min(y), max(x), max(y)) == (left, top, right, bottom)
    assert frame.get_color() == "red"


def row_name(name):
    canvas = Canvas(2.0, 2.0, inches=0.5)
    canvas.row_name(1.0, 1.0, name)
    pixels_or_formula_error = canvas.figure.axes[0]
    canvas.figure.draw_without_rendering()
    return pixels_or_formula_error.texts[0].get_text().split("\n")


@pytest.mark.parametrize("name", ["cat", "dog_$x", "a$b$", "", "ü", "Greek/character01"])
def test_a_short_name_is_written_as_it_is(name):
    assert "".join(row_name(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "Old_Church_Slavonic_(Cyrillic)/character14, rotated 270°",
        "U+1FF2 GREEK SMALL LETTER OMEGA WITH VARIA AND YPOGEGRAMMENI",
        "x" * 200 + " end",
    ],
)
def test_a_long_name_is_wrapped_and_keeps_its_beginning_and_end(name):
    lines = row_name(name)
    assert 1 < len(lines) <= 5
    assert max(map(len, lines)) <= 17
    assert name.startswith(lines[0])
    assert name.endswith(lines[-1])
