import itertools
import re

import numpy as np
import pytest

from mamlpp_jax.reports import plots
from tests.helpers.figures import pixels, texts


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


def lines(axes):
    """Label to (x, y), of lines that have a label."""
    found = {line.get_label(): line.get_data() for line in axes.lines}
    return {label: data for label, data in found.items() if not label.startswith("_")}


# --- Learning curves ------------------------------------------------------------------------------


def test_learning_curves_show_training_and_validation():
    loss, accuracy = map(lines, plots.learning_curves(run_rows(), way=5).axes)
    x, y = loss["training"]
    np.testing.assert_array_equal(x, np.arange(1, 61))
    np.testing.assert_allclose(y, 1.6 / x)
    np.testing.assert_allclose(accuracy["training"][1], 100 - 80 / x)
    x, y = loss["validation, batch statistics"]
    assert (list(x), list(y)) == ([20, 40, 60], [0.3] * 3)
    assert list(accuracy["validation, batch statistics"][1]) == [90.0] * 3
    assert set(accuracy["chance, 5-way"][1]) == {20.0}
    training_only = [row for row in run_rows() if "loss" in row]
    assert [list(lines(axes)) for axes in plots.learning_curves(training_only).axes] == [
        ["training"],
        ["training"],
    ]


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
def test_learning_curves_take_any_run(rows):
    pixels(plots.learning_curves(rows, way=5))


@pytest.mark.parametrize("steps", [200, 2000])
def test_smoothing_keeps_a_constant_and_skips_what_is_not_finite(steps):
    rows = [{"step": step, "loss": 2.0, "accuracy": 0.5} for step in range(steps)]
    rows[7]["loss"] = rows[8]["loss"] = np.nan
    (loss, _) = plots.learning_curves(rows).axes
    np.testing.assert_allclose(lines(loss)[f"training, mean of {steps // 50} steps"][1], 2.0)


def test_smoothing_averages_neighbours():
    rows = [{"step": step, "loss": step % 3, "accuracy": 0.5} for step in range(150)]
    (loss, _) = plots.learning_curves(rows).axes
    smooth = lines(loss)["training, mean of 3 steps"][1]
    np.testing.assert_allclose(smooth[1:-1], 1.0)
    assert smooth[0] == pytest.approx(0.5)  # of two at the end


def with_losses(mode, values):
    """Rows in which one mode's validation losses are these."""
    rows = run_rows(modes=("batch", "support", "running"))
    for row, value in zip((row for row in rows if "val_accuracy" in row), values, strict=True):
        row[f"val_loss_{mode}"] = value
    return rows


@pytest.mark.parametrize("values", [(1e2, 1e35, 1e300), (0.5, np.inf, np.nan), (9.0, 9.0, 9.0)])
def test_a_mode_that_diverges_does_not_move_the_loss_axis(values):
    figure = plots.learning_curves(with_losses("running", values), way=5)
    alone = plots.learning_curves(run_rows(modes=("batch",)), way=5)
    pixels(figure)
    assert figure.axes[0].get_ylim() == pytest.approx(alone.axes[0].get_ylim())
    bottom, top = figure.axes[0].get_ylim()
    assert bottom < 1.6 / 60
    assert 1.6 < top < 3


def test_the_loss_axis_follows_the_selecting_mode():
    (loss, _) = plots.learning_curves(with_losses("batch", (0.3, 1e10, 1e35))).axes
    assert loss.get_ylim()[1] > 1e35
    assert loss.get_yscale() == "log"  # training is still to be seen


def test_the_axis_of_accuracies_shows_the_points_that_matter():
    rows = run_rows(steps=200, per_epoch=50)  # validated at 90 %
    low, high = plots.learning_curves(rows, way=5).axes[1].get_ylim()
    assert 80 < low < 90  # chance is at 20 %, and the first step too
    assert high == pytest.approx(101, abs=1)


@pytest.mark.parametrize(("epochs", "said"), [(0, "step$"), (3, "step; .* before epoch 4$")])
def test_the_loss_says_which_one_it_is(epochs, said):
    (loss, _) = plots.learning_curves(run_rows(), 5, epochs).axes
    assert re.search(f"^after the last inner {said}", loss.get_title())


# --- Accuracy per inner step ----------------------------------------------------------------------


def test_accuracy_per_inner_step_shows_the_ensembles():
    ensemble, best = make_row(), make_row(model="best", mode="running")
    (axes,) = plots.accuracy_per_inner_step([ensemble, best]).axes
    assert set(lines(axes)) == {"batch statistics", "chance, 5-way"}
    np.testing.assert_allclose(lines(axes)["batch statistics"][1], [20, 90, 95])
    (axes,) = plots.accuracy_per_inner_step([best]).axes  # all there is
    assert "running statistics" in lines(axes)


def test_lines_of_other_tasks_have_other_labels():
    rows = [make_row(), make_row() | {"way": 20}, make_row("support")]
    (axes,) = plots.accuracy_per_inner_step(rows).axes
    assert list(lines(axes)) == [
        "batch statistics, 5-way",
        "batch statistics, 20-way",
        "support statistics, 5-way",
    ]


def test_lines_of_more_tasks_and_other_data_have_other_labels():
    rows = [make_row() | {"tasks": 600}, make_row() | {"tasks": 600, "data": "birds"}]
    (axes,) = plots.accuracy_per_inner_step([*rows, make_row() | {"tasks": 6000}]).axes
    assert list(lines(axes))[:3] == [
        "batch statistics, 600 tasks, data: the run's",
        "batch statistics, 600 tasks, data: birds",
        "batch statistics, 6000 tasks, data: the run's",
    ]


def test_values_that_are_near_have_labels_that_do_not_overlap():
    ends = (0.95, 0.951, 0.949, 0.3, 0.948)
    rows = [make_row(str(end), values=(0.2, end)) for end in ends]
    figure = plots.accuracy_per_inner_step(rows)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    assert {"95.0", "95.1", "94.9", "30.0", "94.8"} == set(texts(axes))
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_different_numbers_of_steps_share_a_figure():
    rows = [make_row(), make_row("support", values=(0.2, 0.5, 0.6, 0.7, 0.8)), make_row(values=[1])]
    figure = plots.accuracy_per_inner_step(rows)
    pixels(figure)
    assert figure.axes[0].get_xlim()[1] > 4
    pixels(plots.accuracy_per_inner_step([]))


# --- Inner rates ----------------------------------------------------------------------------------


def heat_map(rates):
    """The axes and the drawn table."""
    figure = plots.inner_rates(rates)
    pixels(figure)
    axes = figure.axes[0]
    return axes, np.asarray(axes.images[0].get_array())


def test_rates_are_drawn_with_their_values():
    axes, table = heat_map({"conv0/kernel": np.array([0.1, -0.2]), "conv0/bias": np.array([0, 1])})
    np.testing.assert_allclose(table, [[0.1, -0.2], [0, 1]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv0/kernel", "conv0/bias"]
    assert texts(axes)["\N{MINUS SIGN}0.20"] == (1, 0)


def test_a_negative_rate_has_another_colour():
    axes, _ = heat_map({"w": np.array([0.1, 0.05, -0.05])})
    red, _, blue, _ = axes.images[0].to_rgba(np.array([0.1, 0.05, -0.05]))[..., :].T
    assert (np.sign(blue - red) == [1, 1, -1]).all()


def test_rates_of_elements_are_averaged():
    row = np.array([0.1, 0.3])
    _, table = heat_map({"w": np.stack([row - 0.1, row + 0.1], axis=1)})
    np.testing.assert_allclose(table, [row])


@pytest.mark.parametrize("value", [0.0, 1e-9, 123.0, np.nan])
def test_any_size_of_rate_is_drawn(value):
    heat_map({"w": np.full(3, value), "b": np.zeros(3)})
