"""The report says what there is of each run, and nothing else."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from experiments.paper import runs as runs_lib
from experiments.paper.archived_runs import load_run, planned_config
from experiments.paper.report import fill, write_report
from experiments.paper.runs import Run, figure_1
from experiments.paper.tables import all_tables
from mamlpp_jax.artifacts.predictions import QueryPredictions
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
    for name in ("table1", "table2", "table4", "methods", "figure1"):
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


def test_a_field_that_does_not_act_is_no_change(tmp_path):
    write_run(tmp_path, MAML, **{"norm.hand_over": 0.5, "model.conv": "direct"})
    renormalised = {"norm.train_statistics": "renorm", "norm.hand_over": 0.5}
    write_run(tmp_path, MAML._replace(seed=1), **renormalised)
    seen = found(all_tables(tmp_path), "table4", shot=1, method="maml")
    lengths = [row["outer steps"].partition("; changed: ")[2] for row in seen]
    assert lengths == ["", "norm.hand_over=0.5, norm.train_statistics=renorm"]


def test_a_run_of_a_list_file_is_not_changed_by_its_own_fields(tmp_path):
    path = tmp_path / "runs.txt"
    path.write_text("omniglot:method=maml brief train.epochs=3 train.cosine_annealing=false\n")
    (run,) = runs_lib.load_runs(str(path), "")
    write_run(tmp_path, run)
    assert load_run(tmp_path, run).length == "1,500; shortened from 75,000"


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
    (row,) = found(tables, "methods", way=5, method="maml++")
    assert row["outer steps"] == row["batch, best"] == "diverged"


def test_the_strided_network_is_not_set_beside_the_papers_numbers_of_the_other(tmp_path):
    write_run(tmp_path, figure_1()[0], 0.9)
    (row,) = found(all_tables(tmp_path), "figure1", method="maml", protocol="short")
    assert row["batch, ensemble"] == "90.00 [± 0.50]"
    assert row["outer steps"] == "3,000; shortened from 75,000"
    assert "published" not in row


def test_a_run_that_went_on_elsewhere_says_so(tmp_path):
    folder = write_run(tmp_path, MAML)
    records = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    for record in records[4:]:
        record |= {"made": "Napier's bones"}
    (folder / "epochs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    place = load_run(tmp_path, MAML).place
    assert place == "Abacus, 2 devices, JAX 0.10, commit abc123; then Napier's bones"


def test_unlisted_runs_are_shown_and_misplaced_ones_refused(tmp_path):
    variant = MAML._replace(variant="ema")
    folder = write_run(tmp_path, variant, 0.95)
    diverged = MAML._replace(variant="average", fields={"train.average_decay": 0.999})
    write_run(tmp_path, diverged, failure="loss is nan at outer step 7 (epoch 1)")
    of_diverged, *tests = rows(all_tables(tmp_path)["other"])
    assert (of_diverged["run"], of_diverged["accuracy"]) == (diverged.name, "")
    assert of_diverged["outer steps"].startswith("diverged at 7")
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
    assert names == {"figure1.png", "figure1.svg", "report.md"}
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


def test_the_summary_takes_the_longest_runs(tmp_path):
    write_run(tmp_path, MAML, 0.9)
    write_run(tmp_path, MAML._replace(protocol="released"), 0.99)
    table = all_tables(tmp_path)
    assert len(rows(table["summary"])) == 6
    (row,) = found(table, "summary", task="Omniglot 5-way", method="maml")
    assert (row["ours"], row["protocol"]) == ("99.00 [± 0.50]", "released")
    (row,) = found(table, "summary", task="mini-ImageNet 5-way", method="maml++")
    assert row["ours"] == "no run"
    assert row["published"].startswith("52.15")


def test_statistics_have_a_column_each(tmp_path):
    write_run(tmp_path, MAML._replace(variant="brief"), 0.9)
    write_run(tmp_path, MAML._replace(variant="average"), 0.9)
    write_run(tmp_path, MAML, 0.9)
    (row,) = rows(all_tables(tmp_path)["statistics"])
    assert (row["`batch`"], row["`support`"]) == ("89.00 ± 0.50", "87.00 ± 0.50")


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
        kept, {test.key: predicted(correct[test.inner_steps]) for test in kept["test"]}
    )


def predicted(right):
    """Predictions of five query images per task, so many of them right."""
    labels = np.tile(np.arange(5, dtype=np.uint8), (len(right), 1))
    wrong = labels >= np.asarray(right)[:, None]
    classes = labels.astype(np.uint16)
    of = QueryPredictions(np.array(list("abcde")), classes, labels, (labels + wrong) % 5, labels)
    assert (of.correct.sum(1) == right).all()
    return of


def gained(right, plain):
    gains = 100 * (right - plain) / 5
    half = 2.0227 * gains.std(ddof=1) / 40**0.5  # Student's t, 39 degrees of freedom
    return f"{20 * right.mean():.2f} ({gains.mean():+.2f} ± {half:.2f})"


def test_more_inner_steps_in_the_test_have_a_row_of_their_own(tmp_path):
    correct = np.random.default_rng(0).integers(2, 6, size=(3, 40))
    write_tested(tmp_path, MAML, {5: correct[0], 10: correct[2]})
    write_tested(tmp_path, MAML._replace(method="maml++"), {5: correct[1]})
    table = all_tables(tmp_path)
    for method, steps, right in (("maml++", 5, correct[1]), ("maml", 10, correct[2])):
        (row,) = found(table, "methods", way=5, method=method, **{"inner steps": steps})
        assert row["batch, best"] == gained(right, correct[0])
    (row,) = found(table, "methods", way=5, method="maml", **{"inner steps": 5})
    assert row["support, ensemble"] == f"{20 * correct[0].mean():.2f}"
    (row,) = found(table, "methods", way=20, method="maml")
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
    (unkept / "predictions.npz").unlink()
    found_cells = {
        method: found(all_tables(tmp_path), "methods", way=5, method=method)[0]["batch, ensemble"]
        for method in methods
    }
    alone = f"{20 * correct[1].mean():.2f}"
    assert found_cells == dict.fromkeys(methods[:3], alone) | {
        "maml+lslr": gained(correct[1], correct[0])
    }


def test_an_option_is_compared_with_plain_mamlpp(tmp_path):
    correct = np.random.default_rng(3).integers(2, 6, size=(2, 40))
    plain = MAML._replace(method="maml++")
    write_tested(tmp_path, plain, {5: correct[0]})
    write_tested(tmp_path, plain._replace(variant="average"), {5: correct[1]})
    table = all_tables(tmp_path)
    (row,) = found(table, "options", way=5, variant="average")
    assert row["batch, best"] == gained(correct[1], correct[0])
    (row,) = found(table, "options", way=5, variant="smoothing")
    assert row["batch, best"] == "no run"


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
