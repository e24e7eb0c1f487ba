"""Letters rendered on the spot."""

import hashlib
import os
import shutil
import sys
import types

import matplotlib
import numpy as np
import pytest

from mamlpp_jax.data.sources import glyphs
from mamlpp_jax.errors import DataError

LETTERS = [ord(letter) for letter in "ABGKabgkЖДфΩλψאבש"]
NUM_CLASSES = 2125


@pytest.fixture(scope="module")
def some():
    return glyphs.render(LETTERS)


def by_class(dataset):
    images = dataset.images.reshape(dataset.num_classes, -1, *dataset.images.shape[1:])
    return dict(zip(dataset.class_names, images, strict=True))


def test_one_class_per_letter(some):
    assert some.num_classes == len(LETTERS)
    assert "U+0041 LATIN CAPITAL LETTER A" in some.class_names
    assert some.images.shape == (20 * len(LETTERS), 28, 28, 1)
    assert set(some.class_sizes.tolist()) == {20}


def test_images_are_ink_on_paper(some):
    for name, images in by_class(some).items():
        ink = (images > 127).mean(axis=(1, 2, 3))
        assert (ink > 0.02).all(), name
        assert (ink < 0.6).all(), name
        # Antialiased, with full ink and full paper.
        assert images.max() == 255
        assert images.min() == 0
        assert ((images > 40) & (images < 215)).any()


def test_letters_stay_inside_the_image(some):
    edges = np.concatenate(
        [some.images[:, [0, -1]].reshape(-1), some.images[:, :, [0, -1]].reshape(-1)]
    )
    assert (edges > 127).mean() < 0.002


def test_no_two_images_of_a_class_are_equal(some):
    for images in by_class(some).values():
        assert len({image.tobytes() for image in images}) == 20


def test_a_class_does_not_depend_on_the_others(some):
    alone = glyphs.render([ord("K")])
    np.testing.assert_array_equal(alone.images, by_class(some)[alone.class_names[0]])


def test_the_order_of_the_letters_does_not_matter(some):
    backwards = glyphs.render(reversed(LETTERS))
    assert backwards.class_names == some.class_names
    np.testing.assert_array_equal(backwards.images, some.images)


def test_another_size():
    assert glyphs.render([ord("A")], 20).images.shape == (20, 20, 20, 1)


def test_letters_that_look_alike_are_one_class():
    alike = glyphs.render([0x41, 0x391, 0x410])  # Latin A, Greek Alpha, Cyrillic A
    assert alike.class_names == ("U+0041 LATIN CAPITAL LETTER A",)
    assert glyphs.render([ord("O"), ord("Q")]).num_classes == 2
    assert glyphs.render([ord("u"), ord("n")]).num_classes == 2


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
def test_other_characters_make_no_class(point):
    assert glyphs.render([ord("A"), point]).num_classes == 1
    with pytest.raises(DataError, match="none of the code points"):
        glyphs.render([point])


@pytest.fixture
def font_folder(tmp_path, monkeypatch):
    """An empty folder in the place of matplotlib's fonts."""
    folder = tmp_path / "fonts" / "ttf"
    folder.mkdir(parents=True)
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    return folder


def test_missing_fonts_are_named(font_folder):
    with pytest.raises(DataError, match=r"DejaVuSans\.ttf.*Install matplotlib"):
        glyphs.render([ord("A")])


def test_a_broken_font_is_named(font_folder):
    (font_folder / "DejaVuSans.ttf").write_bytes(b"no font")
    with pytest.raises(DataError, match=r"DejaVuSans\.ttf"):
        glyphs.render([ord("A")])


def nearest_neighbour_accuracy(images, tasks):
    """Returns 5-way 1-shot accuracy of the nearest support image; images are [classes, 20, pixels]."""
    rng = np.random.Generator(np.random.PCG64(0))
    right = 0
    for _ in range(tasks):
        classes = rng.choice(len(images), 5, replace=False)
        picked = images[classes][:, rng.choice(20, 2, replace=False)]
        distances = np.square(picked[:, None, 0] - picked[None, :, 1]).sum(axis=-1)
        right += (distances.argmin(axis=0) == np.arange(5)).sum()
    return right / (5 * tasks)


def test_classes_can_be_told_apart_but_not_by_pixels_alone(some):
    images = some.images.reshape(some.num_classes, 20, -1).astype(np.float32) / 255
    assert 0.4 < nearest_neighbour_accuracy(images, 400) < 0.95


@pytest.mark.parametrize("executable", ["", "false"])
def test_two_processes_render_what_one_does(some, monkeypatch, executable):
    here, render = [], glyphs._render_class
    monkeypatch.setattr(glyphs, "_MANY", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(
        glyphs, "_render_class", lambda *given: (here.append(given), render(*given))[1]
    )
    if executable:
        monkeypatch.setattr(sys, "executable", shutil.which(executable))
    np.testing.assert_array_equal(glyphs.render(LETTERS).images, some.images)
    # Where the other process fails, all are rendered in this one.
    assert len(here) == (len(LETTERS) if executable else len(LETTERS) // 2)


@pytest.mark.slow
def test_the_whole_set():
    everything = glyphs.build(types.SimpleNamespace(image_size=28))
    assert everything.num_classes == NUM_CLASSES
    # No class is the placeholder for a missing letter, and no two are the same.
    classes = by_class(everything)
    firsts = {hashlib.sha256(images.tobytes()).digest() for images in classes.values()}
    assert len(firsts) == everything.num_classes
    for name, images in classes.items():
        assert (images > 127).mean() > 0.01, name
        assert len({image.tobytes() for image in images}) == 20, name
