"""Images of every kind become the pixels a model was trained on, or are refused by name."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from mamlpp_jax.data.readers.images import decode_grey, decode_rgb, square_ink, square_rgb
from mamlpp_jax.errors import DataError
from mamlpp_jax.inference.preprocessing import ImageFormat, load_images
from tests.helpers.small_models import drawings
from tests.helpers.small_sources import png

WRITING = ImageFormat(12, 1, polarity="auto")
PHOTOS = ImageFormat(12, 3)
DRAWING = drawings(1)[0]
PHOTO = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def expected_ink(image=DRAWING):
    return square_ink(Image.fromarray(image), 12)[..., None]


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_writing_is_prepared_as_the_omniglot_reader_does():
    encoded = png(DRAWING > 127)  # 1 bit, as Omniglot's
    grey = decode_grey(encoded, "drawing")
    np.testing.assert_array_equal(load_images(grey, WRITING)[0], square_ink(grey, 12)[..., None])


def test_photographs_are_prepared_as_the_image_folder_reader_does(tmp_path):
    path = save(tmp_path / "a.jpg", PHOTO)
    trained = square_rgb(decode_rgb(path.read_bytes(), "photo"), 12)
    np.testing.assert_array_equal(load_images(str(path), PHOTOS), trained[None])


@pytest.mark.parametrize(
    "image",
    [
        DRAWING,
        DRAWING[..., None],
        np.stack([DRAWING] * 3, axis=-1),
        np.stack([DRAWING] * 4, axis=-1) | np.array([0, 0, 0, 255], np.uint8),
        DRAWING / 255.0,
        (DRAWING / 255.0).astype(np.float16),
        DRAWING > 0,
        DRAWING.astype(np.int64),
        DRAWING.tolist(),
        Image.fromarray(DRAWING),
        Image.fromarray(DRAWING).convert("RGB"),
        Image.fromarray(DRAWING).convert("P"),
        Image.fromarray(DRAWING).convert("1"),
        Image.fromarray(DRAWING).convert("LA"),
        Image.fromarray(DRAWING.astype(np.uint16) * 257),
    ],
    ids=lambda image: getattr(image, "mode", None),
)
def test_every_form_of_a_drawing_gives_the_same_pixels(image):
    np.testing.assert_array_equal(load_images([image], WRITING), expected_ink()[None])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_files_of_every_mode_with_unicode_names(tmp_path, mode):
    path = tmp_path / "字 é.png"
    Image.fromarray(DRAWING).convert(mode).save(path)
    np.testing.assert_array_equal(load_images(path, WRITING), expected_ink()[None])


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff"])
def test_files_of_16_bits(tmp_path, name):
    path = save(tmp_path / name, DRAWING.astype(np.uint16) * 257)
    np.testing.assert_array_equal(load_images(path, WRITING), expected_ink()[None])


def test_a_palette_with_a_transparent_colour_lies_on_white(tmp_path):
    palette = Image.fromarray((DRAWING > 127).astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 200, 30, 30])
    palette.save(tmp_path / "palette.png", transparency=1)
    found = load_images(tmp_path / "palette.png", WRITING)
    np.testing.assert_array_equal(found, expected_ink()[None])


def test_one_image_or_several():
    for several in (drawings(3)[..., None], list(drawings(3)), iter(drawings(3))):
        assert load_images(several, WRITING).shape == (3, 12, 12, 1)
    assert load_images(drawings(2), WRITING).shape == (2, 12, 12, 1)
    assert load_images(drawings(3), WRITING, stack=True).shape == (3, 12, 12, 1)
    assert load_images([PHOTO, DRAWING, PHOTO[:, :, 0]], PHOTOS).shape == (3, 12, 12, 3)
    assert load_images(PHOTO, ImageFormat(12, 1)).shape == (1, 12, 12, 1)


COLOURS = np.random.default_rng(1).random((2, 20, 30, 3)).astype(np.float32)


def in_torch(make):
    return lambda: make(pytest.importorskip("torch").tensor(COLOURS).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (in_torch(lambda images: images), 2),
        (in_torch(lambda images: images[0]), 1),
        (in_torch(list), 2),
        (in_torch(lambda images: images.permute(0, 2, 3, 1)), 2),
        (in_torch(lambda images: images[0].permute(1, 2, 0)), 1),
        (in_torch(lambda images: images.requires_grad_()), 2),
        (in_torch(lambda images: {"image": list(images), "label": [0, 1]}), 2),
        (in_torch(lambda images: [{"pixel_values": image} for image in images]), 2),
        (lambda: [{"image": image, "label": 0} for image in COLOURS], 2),
        (lambda: {"image": COLOURS[0], "label": 0}, 1),
    ],
)
def test_tensors_and_rows_of_data_sets(make, count):
    np.testing.assert_array_equal(load_images(make(), PHOTOS), load_images(COLOURS[:count], PHOTOS))


def test_grey_tensors():
    torch = pytest.importorskip("torch")
    images = torch.tensor(drawings(5))
    for several in (images, images[:, None], list(images), list(images[:, None])):
        np.testing.assert_array_equal(
            load_images(several, WRITING), load_images(drawings(5), WRITING)
        )
    assert load_images(images[:1], WRITING).shape == (1, 12, 12, 1)
    assert load_images(images[:3], PHOTOS).shape == (1, 12, 12, 3)
    with pytest.raises(DataError, match="four channels or four grey ones"):
        load_images(images[:4], WRITING)


def test_bytes_and_open_files(tmp_path):
    path = save(tmp_path / "a.png", DRAWING)
    encoded = path.read_bytes()
    file, buffer = path.open("rb"), io.BytesIO(encoded)
    with file:
        for image in (file, buffer, encoded, bytearray(encoded), {"bytes": encoded, "path": None}):
            for _ in range(2):  # an open file is read again from its beginning
                for images in (image, [image], {"image": image}):
                    np.testing.assert_array_equal(load_images(images, WRITING)[0], expected_ink())
    with pytest.raises(DataError, match="cannot be read"):
        load_images(file, WRITING)
    with path.open(encoding="latin-1") as text, pytest.raises(DataError, match="binary mode"):
        load_images([text], WRITING)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (COLOURS[0].transpose(2, 0, 1), "channels last"),
        (COLOURS.transpose(0, 3, 1, 2), "channels last"),
        (list(COLOURS.transpose(0, 3, 1, 2)), "channels last"),
        (np.zeros((5, 1, 20, 20)), "channels last"),
        (np.zeros((1797, 64)), "1797 rows of 64 numbers"),
        (np.zeros((100, 784)), "100 rows of 784"),
        (np.zeros((500, 3072)), "500 rows of 3072"),
        (np.zeros((569, 30)), "569 rows of 30"),
        ({"text": "a", "label": 0}, "'text', 'label'"),
        ({DRAWING.tobytes()}, "of type set"),
    ],
)
def test_what_is_taken_for_no_image(images, said):
    with pytest.raises(DataError, match=said):
        load_images(images, PHOTOS)


@pytest.mark.parametrize("shape", [(24, 24), (64, 64), (768, 1024), (20, 30), (100, 70)])
def test_one_grey_image_of_two_axes(shape):
    assert load_images(np.zeros(shape), WRITING).shape == (1, 12, 12, 1)


def test_images_that_cannot_be_read_are_left_out_where_asked(tmp_path):
    errors = {}
    images = [DRAWING, tmp_path / "absent.png", PHOTO]
    assert load_images(images, WRITING, errors).shape == (2, 12, 12, 1)
    assert errors.keys() == {1}
    assert "absent.png" in str(errors[1])


def test_several_paths_in_a_numpy_array(tmp_path):
    paths = [str(save(tmp_path / f"{n}.png", image)) for n, image in enumerate(drawings(2))]
    found = load_images(np.array(paths), WRITING)
    np.testing.assert_array_equal(found, load_images(drawings(2), WRITING))


def test_polarity_is_decided_for_each_image_by_its_border():
    inverted = 255 - DRAWING
    np.testing.assert_array_equal(load_images([DRAWING, inverted], WRITING), [expected_ink()] * 2)
    grey_paper = (DRAWING // 2 + 60).astype(np.uint8)  # ink 60 on 187
    dark_paper = (255 - grey_paper).astype(np.uint8)
    both = load_images([grey_paper, dark_paper], WRITING)
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_array_equal(both[0], expected_ink(grey_paper))


def test_polarity_can_be_chosen():
    crossing = DRAWING.copy()
    crossing[:2] = crossing[-2:] = crossing[:, :2] = crossing[:, -2:] = 0  # a black frame
    dark, light = (
        load_images(crossing, WRITING._replace(polarity=polarity))[0]
        for polarity in ("dark_on_light", "light_on_dark")
    )
    np.testing.assert_array_equal(dark, expected_ink(crossing))
    inverted = np.asarray(ImageOps.invert(Image.fromarray(crossing)))
    np.testing.assert_array_equal(light, expected_ink(inverted))


def test_transparent_parts_are_white(tmp_path):
    alpha = np.where(DRAWING == 0, 255, 0).astype(np.uint8)
    image = np.stack([np.zeros_like(alpha)] * 3 + [alpha], axis=-1)
    path = save(tmp_path / "alpha.png", image)
    np.testing.assert_array_equal(load_images([path, image], WRITING), [expected_ink()] * 2)


def text_file(folder):
    (folder / "notes.png").write_text("no image")
    return folder / "notes.png"


def empty_file(folder):
    (folder / "empty.png").touch()
    return folder / "empty.png"


def truncated_file(folder):
    path = save(folder / "cut.png", PHOTO)
    path.write_bytes(path.read_bytes()[:-500])
    return path


def truncated_pillow(folder):
    return Image.open(truncated_file(folder))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (text_file, r"notes\.png"),
        (empty_file, r"empty\.png: it is empty"),
        (truncated_file, r"cut\.png"),
        (truncated_pillow, r"images\[1\]"),
        (lambda folder: folder / "absent.png", r"absent\.png"),
        (lambda folder: folder, "cannot be read"),
        (lambda _: np.zeros((4, 4, 2), np.uint8), r"images\[1\] .* shape \(4, 4, 2\)"),
        (lambda _: np.zeros((5, 4, 5), np.uint8), r"images\[1\] .* 1, 3 or 4 channels"),
        (lambda _: np.zeros((0, 4), np.uint8), r"images\[1\] .* shape \(0, 4\)"),
        (lambda _: np.full((4, 4), 256), r"images\[1\] .*0\.\.255"),
        (lambda _: np.full((4, 4), -1), r"images\[1\] .*0\.\.255"),
        (lambda _: np.full((4, 4), 2.0), r"images\[1\] .*0\.\.1"),
        (lambda _: np.full((4, 4), np.nan), r"images\[1\] .*0\.\.1"),
        (lambda _: np.full((4, 4), 1j), r"images\[1\] .*complex"),
        (lambda _: [[1, 2], [3]], r"images\[1\]"),
        (lambda _: None, r"images\[1\] is a NoneType"),
        (lambda _: b"bytes", r"images\[1\]: it is no image of a known format"),
        (lambda _: Image.new("F", (4, 4)), r"images\[1\].*floating-point"),
    ],
)
def test_an_image_that_cannot_be_read_is_named(tmp_path, make, said):
    with pytest.raises(DataError, match=said):
        load_images([DRAWING, make(tmp_path)], WRITING)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "no images"),
        (np.zeros((0, 5, 5), np.uint8), "no images"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (3, "of type int"),
        (b"bytes", "no image of a known format"),
    ],
)
def test_what_is_no_image_is_refused(images, said):
    with pytest.raises(DataError, match=said):
        load_images(images, WRITING)
