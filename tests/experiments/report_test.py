"""The report says what there is of each run, and nothing else."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from experiments.paper import runs as runs_lib
from experiments.paper.cells import Group
from experiments.paper.kept_runs import load_kept, planned_config
from experiments.paper.report import fill, write_report
from experiments.paper.runs import Run, figure_1
from experiments.paper.tables import all_tables, cost_to_reach
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.utils.files import write_json

ROOT = pathlib.Path(__file__).parents[2]
HARDWARE = {"platform": "cpu", "device": "cpu", "processor": "Abacus", "devices": 2, "jax": "0.10"}
MAML = Run("omniglot", 5, 1, "maml", "short")


def write_run(results, run, accuracy=0.9, failure="", tasks=600, commit="abc123", **fields):
    """What `keep` leaves of a run of a few epochs."""
    folder = results / run.name
    folder.mkdir()
    config = planned_config(run)
    config.update_from_flattened_dict(fields)
    epochs, length = config.train.epochs, config.train.steps_per_epoch
    write_json(folder / "config.json", config.to_dict())
    write_json(folder / "data.json", {"sha256": "f00", "channels": 1})
    records = [
        {
            "epoch": epoch,
            "step": (epoch + 1) * length,
            "loss": 1.0 / (epoch + 1),
            "grad_norm": 2.0,
            "grad_norm_max": 3.0 + epoch,
            "val_accuracy": accuracy - 0.1 + 0.1 * (epoch > 0),
            "ms_per_step": 100.0,
        }
        for epoch in range(2 if failure else epochs)
    ]
    (folder / "epochs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if failure:
        (folder / "failure.txt").write_text(failure)
        return folder
    conditions = {"train_statistics": "batch", "way": run.way, "shot": run.shot, "query": 1}
    tests = [
        {
            "model": model,
            "eval_statistics": mode,
            **conditions,
            "inner_steps": run.steps,
            "tasks": tasks,
            "accuracy": accuracy - 0.01 * (model == "best") - 0.02 * (mode == "support"),
            "ci95": 0.005,
            "loss": 0.1,
            "accuracy_per_step": [0.2],
        }
        for mode in ("batch", "support")
        for model in ("ensemble", "best")
    ]
    about = {"method": run.method, "protocol": run.protocol, "seed": run.seed}
    about |= {"steps": epochs * length, "finished": True, "commit": commit, "hardware": HARDWARE}
    write_json(folder / "results.json", {**about, "config": config.to_dict(), "test": tests})
    return folder


def rows(table):
    """The rows of a Markdown table as dicts of stripped cells."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(split[0], row, strict=True)) for row in split[2:]]


def found(tables, name, **wanted):
    cells = {key: str(value) for key, value in wanted.items()}
    return [row for row in rows(tables[name]) if cells.items() <= row.items()]


def test_without_runs_every_row_says_so(tmp_path):
    tables = all_tables(tmp_path)
    for name in ("table1", "table2", "table3", "table4", "stability", "cost"):
        assert rows(tables[name])
        for row in rows(tables[name]):
            assert "no run" in row.values()
            assert not any("±" in cell for key, cell in row.items() if key != "published")
    assert len(rows(tables["table1"])) == 14
    assert tables["other"] == "No other runs."


def test_a_cell_has_mean_spread_interval_and_provenance(tmp_path):
    for seed, accuracy in enumerate((0.90, 0.92)):
        write_run(tmp_path, MAML._replace(seed=seed), accuracy, commit=f"commit{seed}")
    tables = all_tables(tmp_path)
    (row,) = found(tables, "table4", shot=1, method="maml")
    assert row["batch, ensemble"] == "91.00 ± 1.41 [± 0.50]"
    assert row["support, best"] == "88.00 ± 1.41 [± 0.50]"
    assert row["protocol"] == "short"
    assert row["outer steps"] == "5,000; shortened from 75,000"
    assert row["seeds"] == "2 of 3 (seed 0, 1)"
    assert (row["test tasks"], row["made"]) == ("600", "a, b")
    assert "- b: Abacus, 2 devices, JAX 0.10, commit commit1" in tables["table4"]
    (other,) = found(tables, "table4", shot=1, method="maml++")
    assert other["batch, ensemble"] == "no run"


def test_runs_of_other_lengths_protocols_and_tests_are_not_averaged(tmp_path):
    write_run(tmp_path, MAML, 0.9)
    write_run(tmp_path, MAML._replace(seed=1), 0.8, **{"train.epochs": 3})
    write_run(tmp_path, MAML._replace(seed=2), 0.7, tasks=6000)
    write_run(tmp_path, MAML._replace(protocol="released"), 0.99)
    seen = found(all_tables(tmp_path), "table4", shot=1, method="maml")
    cells = [(row["outer steps"], row["test tasks"], row["batch, ensemble"]) for row in seen]
    assert cells == [
        ("50,000", "600", "99.00 [± 0.50]"),
        ("5,000; shortened from 75,000", "600", "90.00 [± 0.50] (1 of 2 tested)"),
        ("5,000; shortened from 75,000", "6,000", "70.00 [± 0.50] (1 of 2 tested)"),
        (
            "1,500; shortened from 75,000; changed: train.epochs=3",
            "600",
            "80.00 [± 0.50]",
        ),
    ]


def test_diverged_runs_are_counted_and_not_averaged(tmp_path):
    write_run(tmp_path, MAML, 0.9)
    failure = "loss is nan at outer step 1234 (epoch 2)"
    write_run(tmp_path, MAML._replace(seed=1), failure=failure)
    write_run(tmp_path, MAML._replace(method="maml++"), failure=failure)
    tables = all_tables(tmp_path)
    (row,) = found(tables, "table4", shot=1, method="maml")
    assert row["batch, ensemble"] == "90.00 [± 0.50]"
    assert row["seeds"] == "1 of 3 (seed 0); diverged: seed 1"
    (row,) = found(tables, "table4", shot=1, method="maml++")
    assert row["outer steps"].startswith("diverged at 1,234; ")
    assert row["batch, ensemble"] == "diverged"
    wanted = {"task": "Omniglot 5-way 1-shot", "method": "maml", "protocol": "short"}
    (row,) = found(tables, "stability", **wanted)
    assert row["diverged"] == "1 of 2"
    assert (row["gradient norm, median"], row["gradient norm, largest"]) == ("2", "12")


def test_the_strided_network_is_not_set_beside_the_papers_numbers_of_the_other(tmp_path):
    write_run(tmp_path, figure_1()[0], 0.9)
    (row,) = found(all_tables(tmp_path), "figure1", method="maml", protocol="short")
    assert row["batch, ensemble"] == "90.00 [± 0.50]"
    assert row["outer steps"] == "3,000; shortened from 75,000"
    assert "published" not in row


def test_the_cost_of_an_accuracy(tmp_path):
    write_run(tmp_path, MAML, 0.9)
    kept = load_kept(tmp_path, MAML)
    (seconds,) = Group([kept], 3).seconds
    assert cost_to_reach(kept, seconds, 0.8) == (500, 50.0)
    assert cost_to_reach(kept, seconds, 0.9) == (1000, 100.0)
    assert cost_to_reach(kept, seconds, 0.91) is None
    wanted = {"task": "Omniglot 5-way 1-shot", "method": "maml"}
    tables = all_tables(tmp_path)
    (row,) = found(tables, "cost", **wanted, **{"validation accuracy": "90 %"})
    assert (row["steps"], row["seconds"], row["reached by"]) == ("1,000", "100", "1 of 1 runs")
    (row,) = found(tables, "cost", **wanted, **{"validation accuracy": "95 %"})
    assert (row["steps"], row["reached by"]) == ("not reached", "0 of 1 runs")


def write_times(folder, milliseconds):
    lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    for record, value in zip(lines, milliseconds, strict=True):
        record["ms_per_step"] = value
    (folder / "epochs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))


def test_a_slow_epoch_costs_what_others_of_its_kind_do(tmp_path):
    """First order and multi-step loss twice, second order with it once, then without it."""
    fields = {"train.epochs": 5, "train.first_order_epochs": 2, "train.multi_step_epochs": 3}
    seeds = [MAML, MAML._replace(seed=1)]
    times = [(900.0, 100.0, 400.0, 200.0, 300.0), (100.0, 500.0, 600.0, 400.0, 400.0)]
    for run, milliseconds in zip(seeds, times, strict=True):
        write_times(write_run(tmp_path, run, **fields), milliseconds)
    kept = [load_kept(tmp_path, run) for run in seeds]
    assert Group(kept, 3).seconds == [[50.0, 100.0, 300.0, 400.0, 500.0]] * 2
    elsewhere = dataclasses.replace(kept[1], results={**kept[1].results, "commit": "def456"})
    assert Group([kept[0], elsewhere], 3).seconds[1] == [50.0, 100.0, 400.0, 600.0, 800.0]
    for record in kept[0].epochs:
        del record["ms_per_step"]
    assert np.isnan(Group(kept[:1], 3).seconds).all()


def test_a_run_that_went_on_elsewhere_says_so(tmp_path):
    folder = write_run(tmp_path, MAML)
    records = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    for record in records[4:]:
        record |= {"made": "Napier's bones", "ms_per_step": 10.0}
    (folder / "epochs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    kept = load_kept(tmp_path, MAML)
    assert kept.made == "Abacus, 2 devices, JAX 0.10, commit abc123; then Napier's bones"
    (seconds,) = Group([kept], 1).seconds
    assert seconds[3:5] == pytest.approx([4 * 500 * 0.1, 4 * 500 * 0.1 + 500 * 0.01])


def test_unlisted_runs_are_shown_and_misplaced_ones_refused(tmp_path):
    variant = MAML._replace(variant="ema")
    folder = write_run(tmp_path, variant, 0.95)
    option = runs_lib.options("paper")[1]  # the table of options has those of the short protocol
    write_run(tmp_path, option, failure="loss is nan at outer step 7 (epoch 1)")
    of_option, *tests = rows(all_tables(tmp_path)["other"])
    assert (of_option["run"], of_option["accuracy"]) == (option.name, "")
    assert of_option["outer steps"].startswith("diverged at 7")
    row = {**tests[0], "outer steps": ""}
    assert (
        row.items()
        >= {
            "run": variant.name,
            "trained with": "`batch`",
            "tested with": "`batch`",
            "model": "ensemble",
            "accuracy": "95.00 ± 0.50",
        }.items()
    )
    assert len(tests) == 4
    folder.rename(tmp_path / MAML._replace(method="maml++").name)
    with pytest.raises(WorkdirError, match=r"another run .* method='maml'"):
        all_tables(tmp_path)


def test_equal_results_give_equal_bytes_and_stay_as_they_are(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    for run in runs_lib.figure_1()[:3:2]:
        write_run(results, run)
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    pages = [write_report(results, tmp_path / name) for name in ("one", "two")]
    assert pages[0] == pages[1]
    names = {path.name for path in (tmp_path / "one").iterdir()}
    figures = {
        f"{name}.{kind}" for name in ("figure1", "stability", "cost") for kind in ("png", "svg")
    }
    assert names == figures | {"report.md"}
    for name in names:
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        assert b"dc:date" not in content
    assert before == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    drawn = (tmp_path / "one" / "figure1.svg").read_text()  # has its texts as comments
    assert "<!-- maml: 2 of 3 seeds -->" in drawn
    assert "<!-- maml++: no run -->" in drawn


def test_a_page_is_filled_between_its_markers_only():
    page = "before\n<!-- report:table1 -->\nold\n<!-- /report -->\nafter\n"
    tables = {"table1": "| new |"}
    filled = fill(page, tables)
    assert filled == "before\n<!-- report:table1 -->\n\n| new |\n\n<!-- /report -->\nafter\n"
    assert fill(filled, tables) == filled
    assert fill("no markers", tables) == "no markers"
    with pytest.raises(WorkdirError, match="table9"):
        fill(page.replace("table1", "table9"), tables)
    for broken in ("<!-- /report -->", "<!-- report:table1 -->"):
        with pytest.raises(WorkdirError, match="no partner"):
            fill(page.replace(broken, ""), tables)


def test_the_readmes_tables_are_what_the_report_prints():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    same = fill(page, all_tables(ROOT / "experiments" / "results")) == page
    assert same, "run: python -m experiments.paper.report --fill=README.md"


def write_tested(results, run, correct):
    """A run with as many right query images of the five in each test task, by inner steps in the test."""
    folder = write_run(results, run, tasks=40)
    kept = Workdir(folder).results()
    kept["test"] = [
        dataclasses.replace(test, inner_steps=steps, accuracy=right.mean() / 5)
        for test in kept["test"]
        for steps, right in correct.items()
    ]
    Workdir(folder).write_results(
        kept, {test.key: correct[test.inner_steps] for test in kept["test"]}
    )


def gained(right, plain):
    gains = 100 * (right - plain) / 5
    half = 2.0227 * gains.std(ddof=1) / 40**0.5  # Student's t, 39 degrees of freedom
    return f"{20 * right.mean():.2f} ({gains.mean():+.2f} ± {half:.2f})"


def test_an_option_is_compared_with_plain_runs_on_the_same_tasks(tmp_path):
    rng = np.random.default_rng(0)
    correct = rng.integers(2, 6, size=(3, 40))  # plain, smoothed, plain with more inner steps
    plain, *options = runs_lib.options()[: 1 + len(runs_lib.OPTIONS)]
    smoothed = next(run for run in options if run.variant == "smoothing")
    write_tested(tmp_path, plain, {5: correct[0], 10: correct[2]})
    write_tested(tmp_path, smoothed, {5: correct[1]})
    table = all_tables(tmp_path)
    for option, steps, right in (("smoothing", 5, correct[1]), ("none", 10, correct[2])):
        (row,) = found(table, "options", way=5, option=option, **{"inner steps": steps})
        assert row["batch, best"] == gained(right, correct[0])
    (row,) = found(table, "options", way=5, option="none", **{"inner steps": 5})
    assert row["support, ensemble"] == f"{20 * correct[0].mean():.2f}"
    (row,) = found(table, "options", way=20, option="average")
    assert row["batch, best"] == "no run"


def test_only_tests_on_the_same_tasks_are_paired(tmp_path):
    correct = np.random.default_rng(2).integers(2, 6, size=(2, 40))
    methods = ("maml+msl", "maml+da", "maml+bnrs+bnwb", "maml+lslr")
    write_tested(tmp_path, MAML, {5: correct[0]})
    for method in methods:
        write_tested(tmp_path, MAML._replace(method=method), {5: correct[1]})
    other_images, other_tasks, unkept, same = (
        tmp_path / MAML._replace(method=method).name for method in methods
    )
    write_json(other_images / "data.json", {"sha256": "f11", "channels": 1})
    for folder, key, value in (
        (other_tasks, "rotate_evaluation", False),
        (same, "cache_dir", "/elsewhere"),
    ):
        config = json.loads((folder / "config.json").read_text())
        config["data"][key] = value
        write_json(folder / "config.json", config)
    (unkept / "correct_per_task.npz").unlink()
    found_cells = {
        method: found(all_tables(tmp_path), "methods", way=5, method=method)[0]["batch, ensemble"]
        for method in methods
    }
    alone = f"{20 * correct[1].mean():.2f}"
    assert found_cells == dict.fromkeys(methods[:3], alone) | {
        "maml+lslr": gained(correct[1], correct[0])
    }


def test_a_method_is_compared_with_maml_of_as_many_ways(tmp_path):
    correct = np.random.default_rng(1).integers(2, 6, size=(3, 40))
    learned = MAML._replace(method="maml+lslr")
    write_tested(tmp_path, MAML, {5: correct[0]})
    write_tested(tmp_path, learned, {5: correct[1]})
    write_tested(tmp_path, learned._replace(way=20), {5: correct[2]})
    table = all_tables(tmp_path)
    (row,) = found(table, "methods", way=5, method="maml+lslr")
    assert row["batch, ensemble"] == gained(correct[1], correct[0])
    (row,) = found(table, "methods", way=20, method="maml+lslr")  # MAML has no run with 20 ways
    assert "(" not in row["batch, ensemble"]
    (row,) = found(table, "methods", way=5, method="maml")
    assert row["batch, ensemble"] == f"{20 * correct[0].mean():.2f}"


def elsewhere(tests):
    """The same tests under conditions that brief runs' tables do not show."""
    others = ({"inner_steps": 10}, {"shot": 5}, {"data": "birds"})
    return [dataclasses.replace(test, accuracy=0.1, **other) for test in tests for other in others]


def test_a_brief_run_has_a_row_per_number_of_ways(tmp_path):
    shared, _ = runs_lib.shared_head()
    folder = write_run(tmp_path, shared, 0.9)
    results = Workdir(folder).results()
    wide = [dataclasses.replace(test, way=20, accuracy=0.5) for test in results["test"]]
    Workdir(folder).write_results(
        {**results, "test": [*results["test"], *wide, *elsewhere(wide)]}, {}
    )
    table = all_tables(tmp_path)
    method = {"run": "omniglot 5-way 1-shot, `fomaml+sharedhead`", "statistics": "`batch`"}
    few, many = found(table, "brief", **method)
    assert (few["ways in the test"], few["accuracy"]) == ("5", "89.00 ± 0.50")
    assert (many["ways in the test"], many["accuracy"]) == ("20", "50.00 ± 0.50")
    assert many["loss"] == "1.000 → 0.500"
    (none,) = found(table, "brief", run="omniglot 5-way 1-shot, `fomaml+tasknorm`")
    assert none["statistics"] == "no run"


def test_an_inner_rate_has_its_validations_and_tests(tmp_path):
    low, high = runs_lib.inner_rates()
    folder = write_run(tmp_path, low, 0.9, tasks=200)
    results = Workdir(folder).results()
    tests = [dataclasses.replace(test, query=15) for test in results["test"]]
    Workdir(folder).write_results({**results, "test": [*elsewhere(tests), *tests]}, {})
    write_run(tmp_path, high, failure="loss is nan at outer step 7 (epoch 0)")
    table = all_tables(tmp_path)
    (row,) = found(table, "rates", **{"first inner rate": "0.01"})
    validated = [value for key, value in row.items() if key.endswith("0 steps")]
    assert validated == ["80.0", "90.0", "90.0", "90.0", "90.0"]
    assert row["test, `batch`"] == "89.00 ± 0.50"
    (row,) = found(table, "rates", **{"first inner rate": "0.1"})
    assert row["outer steps"] == "diverged"
    assert "No other runs" in table["other"]


def test_running_statistics_have_a_row_per_kind_in_training(tmp_path):
    _, running, _, handed_over = runs_lib.running_statistics()
    folder = write_run(tmp_path, handed_over, 0.9)
    results = Workdir(folder).results()
    more = [
        dataclasses.replace(test, eval_statistics="renorm")
        for test in results["test"]
        if test.eval_statistics == "batch"
    ]
    tests = [*results["test"], *more]
    Workdir(folder).write_results({**results, "test": [*tests, *elsewhere(tests)]}, {})
    write_run(tmp_path, running, failure="loss is nan at outer step 7 (epoch 1)")
    table = all_tables(tmp_path)
    (row,) = found(table, "running", **{"trained with": "`renorm`, handed over"})
    assert row["`renorm`"] == row["`batch`"] == "89.00 ± 0.50"
    for statistics, state in (("`running`", "diverged"), ("`batch`", "no run")):
        (row,) = found(table, "running", **{"trained with": statistics})
        assert row["outer steps"] == state
