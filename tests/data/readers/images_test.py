"""Every kind of image is read as 8-bit colour, or refused by name."""

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from mamlpp_jax.data.readers import images
from mamlpp_jax.data.readers.images import (
    decode_grey,
    decode_rgb,
    load_squares,
    square_ink,
    square_rgb,
    with_channels,
)
from mamlpp_jax.errors import ConfigError, DataError

GRADIENT = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))


def encoded(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def pixels(content):
    return np.asarray(decode_rgb(content, "x"))


def test_grey_becomes_three_equal_channels():
    read = pixels(encoded(Image.fromarray(GRADIENT)))
    np.testing.assert_array_equal(read, np.repeat(GRADIENT[..., None], 3, -1))


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(GRADIENT.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    for kind in ("png", "tiff"):
        np.testing.assert_array_equal(pixels(encoded(deep, kind))[..., 0], GRADIENT)


def test_more_images_than_the_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(images, "host_memory", lambda: 3 * 10 * 20**2)
    assert load_squares([lambda: Image.new("RGB", (30, 30))] * 10, 20).shape == (10, 20, 20, 3)
    with pytest.raises(
        ConfigError, match=r"image_size is 20: 11 images .* take 12\.9 KiB, .* 11\.7"
    ):
        load_squares([lambda: pytest.fail("was decoded")] * 11, 20)


def test_palette_and_one_bit():
    colour = Image.fromarray(np.stack([GRADIENT, GRADIENT.T, GRADIENT], -1))
    palette = colour.quantize(16)
    assert palette.mode == "P"
    np.testing.assert_array_equal(pixels(encoded(palette)), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(GRADIENT > 100)
    np.testing.assert_array_equal(pixels(encoded(bits))[..., 0], 255 * (GRADIENT > 100))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_become_white(mode):
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


def test_the_orientation_of_the_camera_is_applied():
    image = Image.fromarray(np.stack([GRADIENT[:8]] * 3, -1))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    content = encoded(image, exif=exif)
    np.testing.assert_array_equal(pixels(content), np.rot90(np.asarray(image), -1))


def test_an_image_is_squeezed_into_a_square_or_left_alone():
    square = Image.fromarray(np.stack([GRADIENT] * 3, -1))
    np.testing.assert_array_equal(square_rgb(square, 16), np.asarray(square))
    assert square_rgb(square.resize((40, 10)), 16).shape == (16, 16, 3)


def test_dark_writing_becomes_ink():
    paper = np.full((30, 30), 255, np.uint8)
    paper[10:20] = 0
    image = decode_grey(encoded(Image.fromarray(paper)), "x")
    np.testing.assert_array_equal(square_ink(image, 30), 255 - paper)
    small = square_ink(image, 3)
    assert small[1].min() > 200
    assert small[[0, 2]].max() < 55


@pytest.mark.parametrize(
    ("colour", "channels", "found"), [(0, 0, 1), (1, 0, 3), (0, 3, 3), (1, 1, 1)]
)
def test_channels_are_as_wanted_or_as_in_the_images(colour, channels, found):
    images = np.repeat(GRADIENT[None, ..., None], 3, 0).repeat(3, -1)
    images[1, 2, 3, 0] += 20 * colour  # one pixel of one image
    converted = with_channels(images, channels)
    assert converted.shape == (3, 16, 16, found)
    expected = [
        np.asarray(Image.fromarray(i).convert("L" if found == 1 else "RGB")) for i in images
    ]
    np.testing.assert_array_equal(converted, np.reshape(expected, converted.shape))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"no image", "no image of a known format"),
        (encoded(Image.fromarray(GRADIENT))[:-30], "."),
        (encoded(Image.fromarray(GRADIENT), "jpeg")[:200], "[Tt]runcated"),
        (encoded(Image.fromarray(GRADIENT.astype(np.float32)), "tiff"), "floating-point"),
        (encoded(Image.fromarray(GRADIENT.astype(np.int32) - 9), "tiff"), "exceed 16 bits"),
    ],
)
def test_a_broken_image_is_named(content, said):
    with pytest.raises(DataError, match=rf"Cannot decode my\.png: .*{said}"):
        decode_rgb(content, "my.png")


def test_a_broken_grey_image_is_named():
    with pytest.raises(DataError, match=r"Cannot decode a/b\.png: it is no image of a known"):
        decode_grey(b"not an image", "a/b.png")


def test_images_keep_their_order_and_the_first_broken_one_is_named():
    contents = [encoded(Image.fromarray(np.full((4, 4), i, np.uint8))) for i in range(40)]
    squares = load_squares(loaders(contents), 4)
    assert squares.shape == (40, 4, 4, 3)
    np.testing.assert_array_equal(squares[:, 0, 0, 0], np.arange(40))
    contents[7] = contents[20] = b"?"
    with pytest.raises(DataError, match="Cannot decode 7:"):
        load_squares(loaders(contents), 4)


def loaders(contents):
    return [partial(decode_rgb, content, str(i)) for i, content in enumerate(contents)]
