import pytest

from mamlpp_jax.reports import results_page


def make_row(model="ensemble", mode="batch", **changes):
    row = {
        "model": model,
        "train_statistics": "batch",
        "eval_statistics": mode,
        "way": 5,
        "shot": 1,
        "query": 1,
        "inner_steps": 2,
        "tasks": 600,
        "accuracy": 0.97204,
        "ci95": 0.00312,
        "accuracy_per_step": [0.2, 0.91, 0.97204],
    }
    return row | changes


RESULTS = {
    "experiment": "omniglot_5w1s",
    "method": "maml++",
    "seed": 3,
    "steps": 75000,
    "finished": True,
    "commit": "abc1234",
    "hardware": {"devices": 2, "kind": "H|100"},
    "config": {},
    "best_epochs": [120, 133, 149],
    "test": [
        make_row(),
        make_row(mode="support", accuracy=0.95, ci95=0.004, accuracy_per_step=[0.2, 0.9, 0.95]),
        make_row(model="best", inner_steps=1, accuracy=0.05, accuracy_per_step=[0.2, 0.05]),
    ],
}


def cells(text):
    """The words of each line; of a Markdown table, its cells."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] if "|" in line else line.split()
        for line in text.splitlines()
    ]


def test_the_table_has_every_row_and_what_differs_between_them():
    first, second, legend = results_page.results_table(RESULTS).split("\n\n")
    assert legend.startswith("- `ensemble`: the mean probabilities of ")
    assert first.splitlines()[1] == "way 5, shot 1, query 1, tasks 600"
    assert [" ".join(row) for row in cells(first)[-3:]] == [
        "ensemble batch/batch 2 97.20 ± 0.31",
        "ensemble batch/support 2 95.00 ± 0.40",
        "best batch/batch 1 5.00 ± 0.31",
    ]
    second = cells(second)
    assert second[1][-3:] == ["0", "1", "2"]
    assert second[-3][-3:] == ["20.00", "91.00", "97.20"]
    assert second[-1] == ["best", "batch/batch", "1", "20.00", "5.00"]  # one step fewer


def test_many_inner_steps_fit_a_terminal_and_the_page_has_all():
    steps = [k / 100 for k in range(51)]
    results = RESULTS | {"test": [make_row(inner_steps=50, accuracy_per_step=steps)]}
    table = results_page.results_table(results)
    assert max(map(len, table.splitlines())) < 80
    assert cells(table.split("\n\n")[1])[-4][-7:] == ["0", "8", "17", "25", "33", "42", "50"]
    assert "49.00" in results_page.results_page(results)


def test_an_ensemble_of_one_epoch_is_not_shown_beside_that_epoch():
    test = [make_row(epochs=[3]), make_row(model="best", epochs=[3])]
    for text in (
        results_page.results_table(RESULTS | {"test": test}),
        results_page.results_page(RESULTS | {"test": test}),
    ):
        assert text.count("97.20 ± 0.31") == 1
        assert "batch/batch" in text


def test_few_classes_are_said_beside_the_interval():
    row = make_row(classes=3, images=9, ci95_by_class=0.214)
    said = "The tasks are sampled from 3 classes of 9 images in all. The interval says nothing of other classes"
    for text in (
        results_page.results_table(RESULTS | {"test": [row]}),
        results_page.results_page(RESULTS | {"test": [row]}),
    ):
        assert said in text
        assert "± 21.4" in text
    many = results_page.results_table(RESULTS | {"test": [row | {"classes": 423}]})
    assert "423 classes" in many
    assert "nothing of other" not in many


@pytest.mark.parametrize(
    ("protocol", "steps", "said"),
    [
        ("short", 5000, "shortened from 75,000"),
        ("released", 9, "shortened from 50,000"),
        ("paper", 75000, ""),
    ],
)
def test_a_shortened_run_says_so(protocol, steps, said):
    config = {"data": {"name": "omniglot"}, "task": {"way": 5}, "train": {"inner_steps": 2}}
    page = results_page.results_page(
        RESULTS | {"steps": steps, "protocol": protocol, "config": config}
    )
    assert said in page
    assert said or "shortened" not in page


def test_rows_of_other_data_are_named_and_explained():
    results = RESULTS | {
        "test": [make_row(), make_row(data="birds", way=20, inner_steps=9)],
        "config": {
            "data": {"name": "omniglot"},
            "task": {"way": 5},
            "train": {"inner_steps": 2},
        },
    }
    table = results_page.results_table(results)
    assert ["the", "run's", "ensemble"] in [row[:3] for row in cells(table)]
    assert ["birds", "ensemble"] in [row[:2] for row in cells(table)]
    for text in ("Trained on omniglot:", "Trained for 5 ways: more", "Trained for 2 inner steps"):
        assert text in table
    assert "fewer ways" not in table
    assert "birds" in results_page.results_page(results)


def test_a_run_without_tests_is_reported():
    assert results_page.results_table({"test": []}) == "No test results."
    assert "No test results." in results_page.results_page({"experiment": "omniglot"})


def test_a_failed_measurement_is_shown():
    nan = float("nan")
    table = results_page.results_table({"test": [make_row(accuracy=nan, ci95=nan)]})
    assert "nan ± nan" in table


def test_the_page_describes_the_run():
    page = results_page.results_page(RESULTS)
    assert page.startswith("# omniglot_5w1s maml++\n")
    for row in (
        ["experiment", "omniglot_5w1s"],
        ["method", "maml++"],
        ["seed", "3"],
        ["outer steps", "75,000"],
        ["epochs of the ensemble", "120, 133, 149"],
        ["commit", "abc1234"],
        ["ensemble", "batch/batch", "5", "1", "1", "2", "600", "97.20 ± 0.31"],
        ["ensemble", "batch/support", "5", "1", "20.00", "90.00", "95.00"],
    ):
        assert row in cells(page)
    assert "| devices: 2, kind: H\\|100 |" in page
    assert "(transductive)" in page
    assert "`support`:" in page
    assert "`running`:" not in page  # not measured


def test_the_page_leaves_out_what_is_not_known():
    page = results_page.results_page({"experiment": "omniglot", "commit": None})
    assert "commit" not in page
    assert "seed" not in page


def test_an_unfinished_run_is_marked():
    page = results_page.results_page(RESULTS | {"finished": False})
    assert ["outer steps", "75,000 (not finished)"] in cells(page)


def test_the_page_shows_the_figures_that_exist(tmp_path):
    for name in ("learning_curves.png", "episode.png", "other.png"):
        (tmp_path / name).write_bytes(b"")
    page = results_page.results_page(RESULTS, tmp_path)
    assert "](learning_curves.png)" in page
    assert "](episode.png)" in page
    assert "## Figures" in page
    assert "inner_rates" not in page
    assert "other.png" not in page
    assert ".png" not in results_page.results_page(RESULTS)


def test_a_test_of_other_epochs_than_the_best_is_pointed_out():
    config = {"task": {"way": 5}, "train": {"inner_steps": 2}, "data": {"name": "omniglot"}}
    test = [
        make_row(epochs=[120, 133, 149]),
        make_row(model="best", epochs=[120]),
        make_row(mode="support", epochs=[133, 149]),
        make_row(model="best", mode="support"),  # of an older version
    ]
    page = results_page.results_page(RESULTS | {"config": config, "test": test})
    assert "The ensemble under `support`, 5-way 1-shot, is of epoch(s) 133, 149" in page
    assert page.count("is of epoch(s)") == 1


def test_the_page_names_the_folder_of_ones_own_images():
    data = {"name": "image_folder", "manual_dir": "/home/me/birds"}
    config = {"task": {"way": 5}, "train": {"inner_steps": 2}, "data": data}
    page = results_page.results_page(RESULTS | {"config": config})
    assert ["data", "image_folder:birds"] in cells(page)


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        (
            [0.2, 0.5, 0.68, 0.7, 0.797, 0.80],
            "2 inner steps reach 68.0 %, 4 reach 79.7 %: give --inner_steps=4 to",
        ),
        (
            [0.2, 0.5, 0.68, 0.684, 0.6],
            r"2 inner steps reach 68.0 %, and more of them, up to 4, are no better.",
        ),
    ],
)
def test_more_inner_steps_are_advised_where_validation_says_so(tried, said):
    config = {"data": {"name": "glyphs"}, "task": {"way": 5}, "train": {"inner_steps": 2}}
    results = RESULTS | {"config": config, "validation_per_inner_step": tried}
    assert said in results_page.results_table(results)
    assert said in results_page.results_page(results)
