import numpy as np
import pytest

from mamlpp_jax.reports.contact_sheet import SplitSample, draw
from mamlpp_jax.types import Batch, Episode
from tests.helpers.figures import boxes, check_layout, texts


def make_classes(count, images=8, channels=1):
    """Image i of class c has the value 10 c + i everywhere."""
    values = 10 * np.arange(count)[:, None] + np.arange(images)
    pixels = np.broadcast_to(values[..., None, None, None], (count, images, 4, 4, channels))
    return {f"class {c:02d}": pixels[c].astype(np.uint8) for c in range(count)}


def make_episodes(way, shot, query, values=(0.5, 0.5), channels=1):
    """Episodes whose images have one value everywhere."""
    shape = (4, 4, channels)
    images = [
        np.stack([np.full((way * each, *shape), value) for value in values])
        for each in (shot, query)
    ]
    labels = [np.stack([np.repeat(np.arange(way), each)] * len(values)) for each in (shot, query)]
    return Episode(Batch(images[0], labels[0]), Batch(images[1], labels[1]))


def make_body_and_head(name="train", classes=12, way=5, shot=1, query=1, images=8):
    names = [f"way {label}" for label in range(way)]
    return SplitSample(
        name, make_classes(classes, images), make_episodes(way, shot, query), [names, names]
    )


def drawn(splits, **options):
    """The axes, and value and box of every image."""
    (axes,) = draw(splits, **options).axes
    values = [float(np.mean(image.get_array())) for image in axes.images]
    return axes, list(zip(values, boxes(axes), strict=True))


def test_classes_are_spread_over_the_split_and_images_over_the_class():
    axes, images = drawn([make_body_and_head(classes=19, images=15)])
    values = np.round(255 * np.array([value for value, _ in images[:80]])).reshape(10, 8)
    np.testing.assert_array_equal(values, 20 * np.arange(10)[:, None] + np.arange(0, 15, 2))
    tops = np.array([top for _, (_, top, _, _) in images[:80]]).reshape(10, 8)
    lefts = np.array([left for _, (left, _, _, _) in images[:80]]).reshape(10, 8)
    assert (np.ptp(tops, axis=1) == 0).all()
    assert (np.diff(tops[:, 0]) > 0).all()
    assert (np.diff(lefts, axis=1) > 0).all()
    for row in range(10):
        x, y = texts(axes)[f"class {2 * row:02d}"]
        assert x < lefts[row, 0]
        assert tops[row, 0] < y < tops[row, 0] + 1


def test_counts_are_of_the_whole_split_and_say_what_is_left_out():
    axes, _ = drawn([make_body_and_head(classes=12, way=20, shot=6, query=15, images=100)])
    found = texts(axes)
    assert "train: 12 classes, 1,200 images" in found
    assert "train episode 1, 20-way 6-shot" in found
    for text in ("10 of 12 classes", "10 of 20 classes", "support, 5 of 6", "query, 5 of 15"):
        assert text in found
    axes, _ = drawn([make_body_and_head(classes=8, way=8)])
    assert not any(" of " in text for text in texts(axes))


def test_episodes_are_shown_without_their_normalisation_and_clipped():
    episodes = make_episodes(2, 1, 1, values=(-0.5, 9.0))
    split = SplitSample("val", make_classes(1, 1), episodes, [["a", "b"], ["c", "d"]])
    _, images = drawn([split], mean=(0.4,), std=(0.2,))
    values = [value for value, _ in images]
    np.testing.assert_allclose(values, [0.0, *[0.3] * 4, *[1.0] * 4])


def test_each_colour_channel_has_its_own_normalisation():
    episodes = make_episodes(1, 1, 1, values=(1.0,), channels=3)
    split = SplitSample("val", make_classes(1, 1, channels=3), episodes, [["a"]])
    (axes,) = draw([split], mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4)).axes
    np.testing.assert_allclose(axes.images[-1].get_array()[0, 0], (0.3, 0.5, 0.7))


def test_an_episode_has_a_row_per_class():
    episodes = make_episodes(3, 2, 1, values=(0.0,))
    support, query = episodes.support.inputs[0], episodes.query.inputs[0]
    support += np.array([1, 2, 3, 4, 5, 6])[:, None, None, None] / 10
    query += np.array([0.7, 0.8, 0.9])[:, None, None, None]
    split = SplitSample("val", make_classes(1, 1), episodes, [["a", "b", "c"]])
    axes, images = drawn([split])
    place = {round(10 * value): box for value, box in images[1:]}
    for label, name in enumerate("abc"):
        row = [place[2 * label + 1], place[2 * label + 2], place[7 + label]]
        assert [left for left, _, _, _ in row] == sorted({left for left, _, _, _ in row})
        assert len({top for _, top, _, _ in row}) == 1
        x, y = texts(axes)[name]
        assert x < row[0][0]
        assert row[0][1] < y < row[0][3]


@pytest.mark.parametrize(
    ("classes", "task"),
    [
        ((1400, 200, 400), (5, 1, 1)),
        ((64, 16, 20), (5, 1, 15)),
        ((64, 16, 20), (5, 5, 15)),
        ((1150, 50, 423), (20, 1, 1)),
        ((16, 6, 5), (5, 5, 5)),
        ((8, 2, 2), (2, 1, 2)),
        ((20, 2, 3), (2, 2, 3)),
    ],
)
def test_images_fill_the_sheet_without_touching(classes, task):
    splits = [
        make_body_and_head(name, min(count, 20), *task)
        for name, count in zip(("train", "val", "test"), classes, strict=True)
    ]
    axes, _ = drawn(splits)
    assert check_layout(axes) > 0.3
