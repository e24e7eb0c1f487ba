import io
import re

import numpy as np
import pytest

from mamlpp_jax.reports import episode_figure
from mamlpp_jax.types import Batch, Episode
from tests.helpers.figures import boxes, check_layout, pixels, texts

GREEN, RED = "#1a9641", "#d7191c"


def make_episode(way=3, shot=1, query=2, size=8, channels=1):
    """Grey noise and its predictions, all of them correct."""
    generator = np.random.default_rng(0)
    support_labels = np.repeat(np.arange(way), shot)
    query_labels = np.repeat(np.arange(way), query)
    support = generator.uniform(0.4, 0.6, (way * shot, size, size, channels))
    queries = generator.uniform(0.4, 0.6, (way * query, size, size, channels))
    probabilities = 0.1 / way + 0.9 * np.eye(way)[query_labels]
    return Episode(Batch(support, support_labels), Batch(queries, query_labels)), probabilities


def frames(axes, color):
    return [line for line in axes.lines if line.get_color() == color]


def captions(axes, mark):
    return [text.get_text() for text in axes.texts if text.get_text().startswith(mark)]


def test_correct_and_wrong_predictions_are_marked_by_more_than_colour():
    episode, probabilities = make_episode()
    probabilities[1] = [0.0, 0.25, 0.75]  # of class 0
    (axes,) = episode_figure.draw(episode, probabilities).axes
    assert len(frames(axes, GREEN)) == len(captions(axes, "✓")) == 5
    (wrong,) = frames(axes, RED)
    assert wrong.get_linestyle() != frames(axes, GREEN)[0].get_linestyle()
    assert captions(axes, "✗") == ["✗ class 2\n75 %"]
    assert "5 of 6 predictions correct (83.3 %)" in texts(axes)
    left, top, _, _ = boxes(axes)[
        np.flatnonzero([i.get_array() is not None for i in axes.images])[2]
    ]
    assert (min(wrong.get_xdata()), min(wrong.get_ydata())) == (left, top)


def test_predictions_without_a_truth_are_neither_correct_nor_wrong():
    episode, probabilities = make_episode(shot=2)
    fewer = episode._replace(support=Batch(*(leaf[1:] for leaf in episode.support)))
    (axes,) = episode_figure.draw(fewer, probabilities, judged=False).axes
    assert not [*frames(axes, GREEN), *frames(axes, RED), *captions(axes, "✓")]
    assert sum(bool(re.fullmatch(r"\d+ %", text.get_text())) for text in axes.texts) == 6
    assert "3 classes, 1 to 2 support images each" in texts(axes)
    assert "6 query images, each in the row of its prediction" in texts(axes)


def test_images_stand_in_the_row_of_their_class_support_left_of_query():
    episode, probabilities = make_episode(way=3, shot=2, query=2)
    # In any order: each image has a value of its own.
    order = np.array([4, 1, 3, 0, 5, 2])
    values = np.arange(1, 7)[:, None, None, None] / 16 * np.ones((6, 8, 8, 1))
    labels = np.repeat(np.arange(3), 2)
    episode = Episode(
        Batch(values[order], labels[order]), Batch(values[order] + 0.5, labels[order])
    )
    (axes,) = episode_figure.draw(episode, probabilities[order]).axes
    place = {
        round(16 * float(image.get_array().mean())): box
        for image, box in zip(axes.images, boxes(axes), strict=True)
    }
    for label in range(3):
        row = [place[n] for n in (2 * label + 1, 2 * label + 2, 2 * label + 9, 2 * label + 10)]
        assert len({top for _, top, _, _ in row}) == 1
        assert max(left for left, _, _, _ in row[:2]) < min(left for left, _, _, _ in row[2:])
        x, y = texts(axes)[f"class {label}"]
        assert x < row[0][0]
        assert row[0][1] < y < row[0][3]
    assert place[1][1] < place[3][1] < place[5][1]


def test_ink_is_dark_on_white_paper():
    episode, probabilities = make_episode()
    for images in (episode.support.inputs, episode.query.inputs):
        images[:] = 0.0
        images[:, 2:4, 2:6] = 1.0
    ink = pixels(episode_figure.draw(episode, probabilities))
    assert (ink > 250).all(axis=-1).mean() > 0.7
    assert (ink < 5).all(axis=-1).mean() > 0.01


def test_normalised_images_use_the_whole_range():
    episode, probabilities = make_episode(channels=3, size=16)
    normalised = [batch._replace(inputs=(batch.inputs - 0.5) * 30) for batch in episode[:2]]
    episode = Episode(*normalised)
    (axes,) = episode_figure.draw(episode, probabilities).axes
    shown = np.stack([image.get_array() for image in axes.images])
    assert shown.min() == 0.0
    assert shown.max() == 1.0
    assert np.std(shown) > 0.2


@pytest.mark.parametrize(
    ("way", "shot", "query"), [(2, 1, 1), (5, 5, 15), (20, 1, 1), (20, 5, 3), (60, 1, 1)]
)
def test_large_and_small_episodes_fit_the_figure(way, shot, query):
    figure = episode_figure.draw(*make_episode(way, shot, query))
    check_layout(figure.axes[0])
    assert max(figure.get_size_inches()) < 25


@pytest.mark.parametrize(
    ("episode", "shown", "text"),
    [
        ((5, 7, 8), (25, 40), "shown: 5 of 7 support images per class"),
        ((5, 1, 30), (5, 40), "shown: 40 of 150 query images"),
        ((60, 1, 1), (40, 40), "shown: 40 of 60 classes, 40 of 60 query images"),
        ((5, 5, 8), (25, 40), ""),
    ],
)
def test_what_is_left_out_is_counted(episode, shown, text):
    (axes,) = episode_figure.draw(*make_episode(*episode)).axes
    support, query = shown
    assert len(axes.images) == support + query
    assert len(frames(axes, GREEN)) == query
    assert any("shown" in found for found in texts(axes)) == bool(text)
    assert any(text in found for found in texts(axes))


def test_short_class_names_stand_below_the_images():
    (axes,) = episode_figure.draw(*make_episode(), ["cat", "dog", "a$b$"]).axes
    assert {"cat", "dog", "a$b$"} <= set(texts(axes))
    assert captions(axes, "✓")[-1].startswith("✓ a$b$\n")


def test_long_class_names_are_numbered():
    names = ["Greek/character01", "Greek/character02", "ü"]
    (axes,) = episode_figure.draw(*make_episode(), names).axes
    assert captions(axes, "✓")[0].startswith("✓ class 0\n")
    beside = [text.replace("\n", " ") for text in texts(axes)]
    assert "class 1: Greek/ character02" in beside


def test_equal_data_give_equal_files():
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        episode_figure.draw(*make_episode()).savefig(file, format="png")
    assert files[0].getvalue() == files[1].getvalue()
