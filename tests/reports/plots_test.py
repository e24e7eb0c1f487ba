import numpy as np
import pytest
from PIL import Image

from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.reports import plots

GREEN, RED = (26, 150, 65), (215, 25, 28)
BLUE, ORANGE = (0, 114, 178), (230, 159, 0)


def picture(path):
    """The PNG's pixels, uint8 [H, W, 3]; checks that it decodes and that something is drawn."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert (pixels != 255).any(axis=-1).mean() > 0.01
    return pixels


def count(pixels, color):
    return int((pixels == np.array(color, np.uint8)).all(axis=-1).sum())


def run_rows(steps=60, per_epoch=20, modes=("batch",)):
    rows = []
    for step in range(1, steps + 1):
        rows.append({"step": step, "loss": 1.6 / step, "accuracy": 1 - 0.8 / step})
        if step % per_epoch == 0:
            row = {"step": step, "val_accuracy": 0.9}
            for mode in modes:
                row |= {f"val_accuracy_{mode}": 0.9, f"val_ci95_{mode}": 0.01}
                row |= {f"val_loss_{mode}": 0.3}
            rows.append(row)
    return rows


def make_row(mode="batch", model="ensemble", values=(0.2, 0.9, 0.95)):
    return {
        "model": model,
        "train_statistics": "batch",
        "eval_statistics": mode,
        "way": 5,
        "shot": 1,
        "inner_steps": len(values) - 1,
        "tasks": 600,
        "accuracy": values[-1],
        "ci95": 0.01,
        "accuracy_per_step": list(values),
    }


# --- Learning curves ------------------------------------------------------------------------------


def test_learning_curves_show_training_and_validation(tmp_path):
    plots.learning_curves(run_rows(), tmp_path / "all.png", way=5)
    pixels = picture(tmp_path / "all.png")
    assert count(pixels, BLUE) > 500
    assert count(pixels, ORANGE) > 500
    training_only = [row for row in run_rows() if "loss" in row]
    plots.learning_curves(training_only, tmp_path / "training.png")
    assert count(picture(tmp_path / "training.png"), ORANGE) == 0


@pytest.mark.parametrize(
    "rows",
    [
        [],
        run_rows(steps=1),
        run_rows(steps=2500, per_epoch=500, modes=("batch", "support", "running", "new")),
        [{"step": 5, "val_accuracy": 0.5}],
        [{"step": step, "loss": np.nan, "accuracy": 0.2} for step in range(1, 1500)],
        [*run_rows(), {"step": 61, "loss": np.inf, "accuracy": np.nan}],
    ],
    ids=["nothing", "one step", "long", "validation only", "all diverged", "diverged at the end"],
)
def test_learning_curves_take_any_run(tmp_path, rows):
    plots.learning_curves(rows, tmp_path / "curves.png", way=5)
    picture(tmp_path / "curves.png")


def test_smoothing_keeps_a_constant_and_skips_what_is_not_finite():
    values = np.array([2.0, np.nan, 2.0, 2.0, 2.0])
    np.testing.assert_allclose(plots._moving_average(values, 3), 2.0)
    assert np.isnan(plots._moving_average(np.full(4, np.nan), 3)).all()
    np.testing.assert_allclose(plots._moving_average(np.array([0.0, 3.0, 0.0]), 3), [1.5, 1, 1.5])


# --- Accuracy per inner step ----------------------------------------------------------------------


def test_accuracy_per_inner_step_draws_the_ensembles(tmp_path):
    ensemble, best = make_row(), make_row(model="best", mode="running")
    plots.accuracy_per_inner_step([ensemble, best], tmp_path / "both.png")
    plots.accuracy_per_inner_step([ensemble], tmp_path / "ensemble.png")
    both = picture(tmp_path / "both.png")
    assert count(both, ORANGE) > 500
    np.testing.assert_array_equal(both, picture(tmp_path / "ensemble.png"))
    plots.accuracy_per_inner_step([best], tmp_path / "best.png")  # all there is
    assert count(picture(tmp_path / "best.png"), ORANGE) == 0


def test_lines_of_other_tasks_are_told_apart():
    rows = [make_row(), make_row() | {"way": 20}, make_row("support")]
    assert plots._test_labels(rows) == [
        "batch statistics, 5-way",
        "batch statistics, 20-way",
        "support statistics, 5-way",
    ]
    assert plots._test_labels(rows[:1]) == ["batch statistics"]


def test_labels_of_near_values_do_not_overlap():
    np.testing.assert_allclose(plots._spread([95.0, 97.0, 30.0], 4.0), [93.0, 97.0, 30.0])


def test_different_numbers_of_steps_share_a_picture(tmp_path):
    rows = [make_row(), make_row("support", values=(0.2, 0.5, 0.6, 0.7, 0.8)), make_row(values=[1])]
    plots.accuracy_per_inner_step(rows, tmp_path / "steps.png")
    picture(tmp_path / "steps.png")
    plots.accuracy_per_inner_step([], tmp_path / "none.png")
    picture(tmp_path / "none.png")


# --- Inner rates ----------------------------------------------------------------------------------


def test_a_negative_rate_has_another_colour(tmp_path):
    positive = np.full(5, 0.1)
    plots.inner_rates({"conv0/kernel": positive, "conv0/bias": positive}, tmp_path / "plus.png")
    plots.inner_rates({"conv0/kernel": positive, "conv0/bias": -positive}, tmp_path / "minus.png")
    reddish = []
    for name in ("plus.png", "minus.png"):
        pixels = picture(tmp_path / name).astype(int)
        cells = pixels[:, : pixels.shape[1] * 3 // 4]  # not the colour bar
        reddish.append(((cells[..., 0] - cells[..., 2]) > 50).sum())
    assert reddish[0] == 0
    assert reddish[1] > 5000


def test_rates_of_elements_are_averaged(tmp_path):
    row = np.array([0.1, 0.3])
    plots.inner_rates({"w": np.stack([row - 0.1, row + 0.1], axis=1)}, tmp_path / "elements.png")
    picture(tmp_path / "elements.png")
    np.testing.assert_allclose(plots._mean_per_step(np.stack([row, 3 * row], axis=1)), 2 * row)


@pytest.mark.parametrize("value", [0.0, 1e-9, 123.0, np.nan])
def test_any_size_of_rate_is_drawn(tmp_path, value):
    plots.inner_rates({"w": np.full(3, value), "b": np.zeros(3)}, tmp_path / "rates.png")
    picture(tmp_path / "rates.png")


def test_rates_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no inner rates"):
        plots.inner_rates({}, tmp_path / "rates.png")
    with pytest.raises(ValueError, match="different numbers of inner steps"):
        plots.inner_rates({"w": np.zeros(3), "b": np.zeros(2)}, tmp_path / "rates.png")
    assert list(tmp_path.iterdir()) == []


# --- Episode --------------------------------------------------------------------------------------


def make_episode(way=3, shot=1, query=2, size=8, channels=1):
    """Grey noise, all answers right; the arguments of `plots.episode` before the path."""
    generator = np.random.default_rng(0)
    support_labels = np.repeat(np.arange(way), shot)
    query_labels = np.repeat(np.arange(way), query)
    support = generator.uniform(0.4, 0.6, (way * shot, size, size, channels))
    queries = generator.uniform(0.4, 0.6, (way * query, size, size, channels))
    probabilities = 0.1 / way + 0.9 * np.eye(way)[query_labels]
    return [support, support_labels, queries, query_labels, probabilities]


def draw(tmp_path, arguments, **options):
    path = tmp_path / "episode.png"
    plots.episode(*arguments, path, **options)
    return picture(path)


def test_right_and_wrong_answers_have_their_own_frames(tmp_path):
    arguments = make_episode()
    right = draw(tmp_path, arguments)
    assert count(right, GREEN) > 1000
    assert count(right, RED) == 0
    arguments[4] = np.roll(arguments[4], 1, axis=1)
    wrong = draw(tmp_path, arguments)
    assert count(wrong, GREEN) == 0
    assert count(wrong, RED) > 500
    arguments[4][0] = np.roll(arguments[4][0], -1)
    mixed = draw(tmp_path, arguments)
    assert 0 < count(mixed, GREEN) < count(right, GREEN) / 3


def test_images_stand_upright_in_their_class_s_row(tmp_path):
    arguments = make_episode(way=2, query=1, channels=3)
    colors = {"top left": (255, 0, 255), "top right": (0, 255, 255), "bottom left": (255, 255, 0)}
    lower = arguments[0][1]  # the support image of class 1
    lower[:4, :4], lower[:4, 4:], lower[4:, :4] = np.array(list(colors.values())) / 255
    pixels = draw(tmp_path, arguments)
    row, column = {}, {}
    for place, color in colors.items():
        found = np.argwhere((pixels == color).all(axis=-1))
        assert len(found) > 1000
        row[place], column[place] = found.mean(axis=0)
    assert row["top left"] == pytest.approx(row["top right"], abs=3)
    assert row["bottom left"] > row["top left"] + 20
    assert column["top left"] == pytest.approx(column["bottom left"], abs=3)
    assert column["top right"] > column["top left"] + 20
    # In the lower row, left of the query images.
    frames = np.argwhere((pixels == GREEN).all(axis=-1))
    assert row["top left"] > frames[:, 0].mean()
    assert column["top right"] < frames[:, 1].min()


def test_ink_is_dark_on_white_paper(tmp_path):
    arguments = make_episode()
    for images in (arguments[0], arguments[2]):
        images[:] = 0.0
        images[:, 2:4, 2:6] = 1.0
    ink = draw(tmp_path, arguments)
    assert (ink > 250).all(axis=-1).mean() > 0.7
    assert (ink < 5).all(axis=-1).mean() > 0.01


def test_normalised_colour_images_use_the_whole_range(tmp_path):
    arguments = make_episode(channels=3, size=16)
    for index in (0, 2):
        arguments[index] = (arguments[index] - 0.5) * 30
    pixels = draw(tmp_path, arguments).astype(int)
    colourful = np.ptp(pixels, axis=-1) > 100
    assert colourful.mean() > 0.05


@pytest.mark.parametrize(
    ("way", "shot", "query"), [(2, 1, 1), (5, 5, 15), (20, 1, 1), (20, 5, 3), (60, 1, 1)]
)
def test_large_and_small_episodes_are_drawn(tmp_path, way, shot, query):
    pixels = draw(tmp_path, make_episode(way, shot, query))
    assert max(pixels.shape) < 5000


def test_at_most_forty_query_images_are_drawn(tmp_path):
    full = count(draw(tmp_path, make_episode(way=5, query=8)), GREEN)
    more = count(draw(tmp_path, make_episode(way=5, query=30)), GREEN)
    assert more == full


def test_class_names_may_be_anything(tmp_path):
    arguments = make_episode()
    plain = draw(tmp_path, arguments)
    named = draw(tmp_path, arguments, class_names=["a$b$", "cat", "dog_$x"])
    assert (plain != named).any()
    draw(tmp_path, arguments, class_names=["Greek/character01@90 and more " * 4, "", "ü"])


def test_arrays_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "episode.png"
    support, support_labels, query, query_labels, probabilities = make_episode()
    with pytest.raises(ValueError, match="3 support images have 2 labels"):
        plots.episode(support, support_labels[1:], query, query_labels, probabilities, path)
    with pytest.raises(ValueError, match="6 query images have 6 labels and 5 predictions"):
        plots.episode(support, support_labels, query, query_labels, probabilities[1:], path)
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        plots.episode(support, support_labels, query, query_labels, probabilities, path, "ab")
    assert not path.exists()


def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "gone" / "rates.png"
    with pytest.raises(WorkdirError, match=f"cannot write {path}: No such file"):
        plots.inner_rates({"w": np.zeros(2)}, path)


def test_equal_data_give_equal_pictures_and_no_litter(tmp_path):
    plots.episode(*make_episode(), tmp_path / "a.png")
    plots.episode(*make_episode(), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
