"""Every kind of picture people have is read as 8-bit colour, or refused by name."""

import io

import numpy as np
import pytest
from PIL import Image

from mamlpp_jax.data.readers.images import (
    decode_colour,
    is_grey,
    read_squares,
    to_channels,
    to_square,
)
from mamlpp_jax.errors import DataError

GRADIENT = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))


def encoded(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def pixels(content):
    return np.asarray(decode_colour(content, "x"))


def test_grey_becomes_three_equal_channels():
    read = pixels(encoded(Image.fromarray(GRADIENT)))
    np.testing.assert_array_equal(read, np.repeat(GRADIENT[..., None], 3, -1))
    assert is_grey(read)
    np.testing.assert_array_equal(to_channels(read, 1)[..., 0], GRADIENT)


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(GRADIENT.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    for kind in ("png", "tiff"):
        np.testing.assert_array_equal(pixels(encoded(deep, kind))[..., 0], GRADIENT)


def test_palette_and_one_bit():
    colour = Image.fromarray(np.stack([GRADIENT, GRADIENT.T, GRADIENT], -1))
    palette = colour.quantize(16)
    assert palette.mode == "P"
    np.testing.assert_array_equal(pixels(encoded(palette)), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(GRADIENT > 100)
    np.testing.assert_array_equal(pixels(encoded(bits))[..., 0], 255 * (GRADIENT > 100))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_on_white(mode):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 16))
    read = pixels(encoded(image.convert(mode)))
    assert (read[:, :8] == 0).all()
    assert (read[:, 8:] == 255).all()


def test_a_transparent_palette_entry_is_white():
    image = Image.fromarray(np.zeros((16, 16), np.uint8)).convert("P")
    assert (pixels(encoded(image, transparency=0)) == 255).all()


def test_cmyk():
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # cyan
    read = pixels(encoded(image, "jpeg"))
    assert read.shape == (16, 16, 3)
    assert read[..., 0].max() < 20
    assert read[..., 1:].min() > 235


def test_the_camera_may_be_held_sideways():
    image = Image.fromarray(np.stack([GRADIENT[:8]] * 3, -1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    content = encoded(image, exif=exif)
    np.testing.assert_array_equal(pixels(content), np.rot90(np.asarray(image), -1))


def test_a_picture_is_squeezed_into_a_square_or_left_alone():
    square = Image.fromarray(np.stack([GRADIENT] * 3, -1))
    np.testing.assert_array_equal(to_square(square, 16), np.asarray(square))
    assert to_square(square.resize((40, 10)), 16).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"no picture", "cannot identify"),
        (encoded(Image.fromarray(GRADIENT))[:-30], "."),
        (encoded(Image.fromarray(GRADIENT), "jpeg")[:200], "[Tt]runcated"),
        (encoded(Image.fromarray(GRADIENT.astype(np.float32)), "tiff"), "floating-point"),
        (encoded(Image.fromarray(GRADIENT.astype(np.int32) - 9), "tiff"), "exceed 16 bits"),
    ],
)
def test_what_is_no_picture_is_named(content, said):
    with pytest.raises(DataError, match=rf"Cannot decode my\.png: .*{said}"):
        decode_colour(content, "my.png")


def test_many_pictures_keep_their_order_and_the_first_broken_one_is_named():
    contents = [encoded(Image.fromarray(np.full((4, 4), i, np.uint8))) for i in range(40)]
    squares = read_squares([(str(i), lambda c=c: c) for i, c in enumerate(contents)], 4)
    assert squares.shape == (40, 4, 4, 3)
    np.testing.assert_array_equal(squares[:, 0, 0, 0], np.arange(40))
    contents[7] = contents[20] = b"?"
    with pytest.raises(DataError, match="Cannot decode 7:"):
        read_squares([(str(i), lambda c=c: c) for i, c in enumerate(contents)], 4)
