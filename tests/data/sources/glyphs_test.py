"""Letters drawn on the spot."""

import hashlib

import numpy as np
import pytest

from mamlpp_jax.data.sources import glyphs
from mamlpp_jax.errors import DataError

LETTERS = [ord(letter) for letter in "ABGKabgkЖДфΩλψאבש"]
NUM_CLASSES = 2125


@pytest.fixture(scope="module")
def some():
    return glyphs.draw(LETTERS)


def by_class(dataset):
    pictures = dataset.images.reshape(dataset.num_classes, -1, *dataset.images.shape[1:])
    return dict(zip(dataset.class_names, pictures, strict=True))


def test_one_class_per_letter(some):
    assert some.num_classes == len(LETTERS)
    assert "U+0041 LATIN CAPITAL LETTER A" in some.class_names
    assert some.images.shape == (20 * len(LETTERS), 28, 28, 1)
    assert set(some.class_sizes.tolist()) == {20}


def test_pictures_are_ink_on_paper(some):
    for name, pictures in by_class(some).items():
        ink = (pictures > 127).mean(axis=(1, 2, 3))
        assert (ink > 0.02).all(), name
        assert (ink < 0.6).all(), name
        # Antialiased, with full ink and full paper.
        assert pictures.max() == 255
        assert pictures.min() == 0
        assert ((pictures > 40) & (pictures < 215)).any()


def test_letters_stay_inside_the_picture(some):
    edges = np.concatenate(
        [some.images[:, [0, -1]].reshape(-1), some.images[:, :, [0, -1]].reshape(-1)]
    )
    assert (edges > 127).mean() < 0.002


def test_no_two_pictures_of_a_class_are_equal(some):
    for pictures in by_class(some).values():
        assert len({picture.tobytes() for picture in pictures}) == 20


def test_a_class_does_not_depend_on_the_others(some):
    alone = glyphs.draw([ord("K")])
    np.testing.assert_array_equal(alone.images, by_class(some)[alone.class_names[0]])


def test_the_order_of_the_letters_does_not_matter(some):
    turned = glyphs.draw(reversed(LETTERS))
    assert turned.class_names == some.class_names
    np.testing.assert_array_equal(turned.images, some.images)


def test_another_size():
    assert glyphs.draw([ord("A")], 20).images.shape == (20, 20, 20, 1)


def test_letters_that_look_alike_are_one_class():
    alike = glyphs.draw([0x41, 0x391, 0x410])  # Latin A, Greek Alpha, Cyrillic A
    assert alike.class_names == ("U+0041 LATIN CAPITAL LETTER A",)
    assert glyphs.draw([ord("O"), ord("Q")]).num_classes == 2
    assert glyphs.draw([ord("u"), ord("n")]).num_classes == 2


@pytest.mark.parametrize(
    "point",
    [
        ord("1"),
        ord("%"),
        0x2C0,  # a modifier letter: a small copy of another one
        0xAA,  # a raised a
        0x4E00,  # in no face
        0x3164,  # a letter without ink
        0x10FFFF,  # assigned to nothing
    ],
)
def test_what_is_no_letter_of_its_own_makes_no_class(point):
    assert glyphs.draw([ord("A"), point]).num_classes == 1
    with pytest.raises(DataError, match="none of the code points"):
        glyphs.draw([point])


def test_missing_fonts_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(glyphs, "_font_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"DejaVuSans\.ttf.*Install matplotlib"):
        glyphs.draw([ord("A")])


def test_a_broken_font_is_named(tmp_path, monkeypatch):
    (tmp_path / "DejaVuSans.ttf").write_bytes(b"no font")
    monkeypatch.setattr(glyphs, "_font_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"DejaVuSans\.ttf"):
        glyphs.draw([ord("A")])


def nearest_neighbour_accuracy(pictures, tasks):
    """Returns 5-way 1-shot accuracy of the nearest support picture, [classes, 20, pixels]."""
    rng = np.random.Generator(np.random.PCG64(0))
    right = 0
    for _ in range(tasks):
        classes = rng.choice(len(pictures), 5, replace=False)
        picked = pictures[classes][:, rng.choice(20, 2, replace=False)]
        distances = np.square(picked[:, None, 0] - picked[None, :, 1]).sum(axis=-1)
        right += (distances.argmin(axis=0) == np.arange(5)).sum()
    return right / (5 * tasks)


def test_classes_can_be_told_apart_but_not_by_pixels_alone(some):
    pictures = some.images.reshape(some.num_classes, 20, -1).astype(np.float32) / 255
    assert 0.4 < nearest_neighbour_accuracy(pictures, 400) < 0.95


@pytest.mark.slow
def test_the_whole_set():
    everything = glyphs.build()
    assert everything.num_classes == NUM_CLASSES
    # No class is the box that stands for a missing letter, and none is another's double.
    pictures = by_class(everything)
    firsts = {hashlib.sha256(drawn.tobytes()).digest() for drawn in pictures.values()}
    assert len(firsts) == everything.num_classes
    for name, drawn in pictures.items():
        assert (drawn > 127).mean() > 0.01, name
        assert len({picture.tobytes() for picture in drawn}) == 20, name
