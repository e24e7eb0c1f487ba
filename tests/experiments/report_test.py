"""The report says what there is of each run, and nothing else."""

import csv
import dataclasses
import io
import json
import pathlib

import pytest

from experiments.paper import runs as runs_lib
from experiments.paper.archived_runs import load_run, planned_config
from experiments.paper.cells import ACCURACIES
from experiments.paper.csv_rows import results_csv
from experiments.paper.report import fill, write_report
from experiments.paper.runs import Run, figure_1
from experiments.paper.tables import all_tables
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
    assert names == {"figure1.png", "figure1.svg", "report.md", "results.csv"}
    for name in names:
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        assert b"dc:date" not in content
    assert before == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    drawn = (tmp_path / "one" / "figure1.svg").read_text()  # has its texts as comments
    assert "<!-- maml: 2 of 3 seeds -->" in drawn
    assert "<!-- maml++: no run -->" in drawn


def test_the_csv_has_a_row_per_evaluation(tmp_path):
    write_run(tmp_path, MAML, 0.9)
    with_tests(tmp_path, MAML, rotated="no", accuracy=0.5)
    found = list(csv.DictReader(io.StringIO(results_csv(tmp_path))))
    assert len(found) == 8
    assert {row["run"] for row in found} == {MAML.name}
    assert [(row["condition"], row["accuracy"]) for row in found[::4]] == [
        ("rotated, 1 query", "0.9"),
        ("not rotated, 1 query", "0.5"),
    ]
    assert {row["protocol_version"] for row in found} == {"1"}
    assert results_csv(tmp_path / MAML.name) == "run\n"


def test_the_archive_stays_small():
    """At most 25 MB, so that a clone stays quick."""
    files = (ROOT / "experiments" / "results").rglob("*")
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 25_000_000


def test_the_committed_rows_are_the_reports():
    results = ROOT / "experiments" / "results"
    same = (results / "results.csv").read_text() == results_csv(results)
    assert same, "run: python -m experiments.paper.report --fill=README.md"


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
    assert (row["ensemble"], row["protocol"]) == ("99.00 [± 0.50]", "released")
    assert (row["best epoch"], row["test"]) == ("98.00 [± 0.50]", "not rotated, 1 query")
    (row,) = found(table, "summary", task="mini-ImageNet 5-way", method="maml++")
    assert row["ensemble"] == "no run"
    assert row["published"].startswith("52.15")


def test_a_model_has_a_row_with_its_accuracy_after_each_step(tmp_path):
    assert all_tables(tmp_path)["per_step"] == "No such runs."
    run = Run("mini_imagenet", 5, 1, "maml++", "compact")
    write_run(tmp_path, run, 0.5)
    first = rows(all_tables(tmp_path)["per_step"])[0]
    assert first["run"] == run.name
    assert first["0"] == "20.00"
    assert "`batch`, ensemble, 600 tasks, 1 query" in first["test"]


def test_statistics_have_a_column_each(tmp_path):
    write_run(tmp_path, MAML._replace(variant="brief"), 0.9)
    write_run(tmp_path, MAML._replace(variant="average"), 0.9)
    write_run(tmp_path, MAML, 0.9)
    (row,) = rows(all_tables(tmp_path)["statistics"])
    assert (row["`batch`"], row["`support`"]) == ("89.00 ± 0.50", "87.00 ± 0.50")


FEW = 3  # seeds, the fewest of which a difference is shown


def write_seeds(results, run, accuracies, **options):
    """A run per seed with these accuracies in percent by the ensemble and `batch`."""
    return [
        write_run(results, run._replace(seed=seed), accuracy / 100, **options)
        for seed, accuracy in enumerate(accuracies)
    ]


def cell(results, name, column="batch, ensemble", **wanted):
    (row,) = found(all_tables(results), name, **wanted)
    return row[column]


def test_a_difference_is_that_of_equal_seeds_and_its_spread_over_them(tmp_path):
    write_seeds(tmp_path, MAML, (90, 91, 92))
    write_seeds(tmp_path, MAML._replace(method="maml++"), (92, 92, 95))
    text = cell(tmp_path, "methods", way=5, method="maml++")
    assert text == "93.00 ± 1.73 (+2.00 ± 1.00)"
    assert cell(tmp_path, "methods", way=5, method="maml") == "91.00 ± 1.00"
    assert cell(tmp_path, "methods", way=20, method="maml") == "no run"


@pytest.mark.parametrize(("ours", "theirs"), [(2, 3), (3, 2), (1, 1)])
def test_fewer_than_three_common_seeds_show_no_difference(tmp_path, ours, theirs):
    write_seeds(tmp_path, MAML, (90, 91, 92)[:theirs])
    write_seeds(tmp_path, MAML._replace(method="maml++"), (92, 92, 95)[:ours])
    assert "(" not in cell(tmp_path, "methods", way=5, method="maml++")


def test_no_bracket_of_the_archived_runs_is_of_fewer_seeds():
    tables = all_tables(ROOT / "experiments" / "results")
    for row in [*rows(tables["methods"]), *rows(tables["options"])]:
        if any("(" in row[column] for column in ACCURACIES):
            assert int(row["seeds"].partition(" of ")[0]) >= FEW


def test_seeds_are_paired_by_their_number(tmp_path):
    write_seeds(tmp_path, MAML, (90, 91, 92, 99))
    for seed, accuracy in ((1, 92), (2, 93), (3, 70)):
        write_run(tmp_path, MAML._replace(method="maml++", seed=seed), accuracy / 100)
    (tmp_path / MAML._replace(seed=3).name).rename(tmp_path / "elsewhere")
    assert "(" not in cell(tmp_path, "methods", way=5, method="maml++")


def test_only_tests_on_the_same_tasks_are_compared(tmp_path):
    methods = ("maml+msl", "maml+da", "maml+bnrs+bnwb")
    write_seeds(tmp_path, MAML, (90, 91, 92))
    for method in methods:
        write_seeds(tmp_path, MAML._replace(method=method), (91, 92, 93))
    other_images, other_split, same = (
        [tmp_path / MAML._replace(method=method, seed=seed).name for seed in range(FEW)]
        for method in methods
    )
    for folder in other_images:
        write_json(folder / "data.json", {"sha256": "f11", "channels": 1})
    for folders, key, value in ((other_split, "seed", 7), (same, "cache_dir", "/elsewhere")):
        for folder in folders:
            config = json.loads((folder / "config.json").read_text())
            config["data"][key] = value
            write_json(folder / "config.json", config)
    brackets = {
        method: "(" in cell(tmp_path, "methods", way=5, method=method) for method in methods
    }
    assert brackets == dict(zip(methods, (False, False, True), strict=True))


def test_runs_of_another_processor_are_marked(tmp_path):
    write_seeds(tmp_path, MAML, (90, 91, 92))
    folders = write_seeds(tmp_path, MAML._replace(method="maml++"), (92, 92, 95))
    assert "†" not in cell(tmp_path, "methods", way=5, method="maml++")
    results = json.loads((folders[0] / "results.json").read_text())
    results["hardware"]["processor"] = "Slide rule"
    write_json(folders[0] / "results.json", results)
    assert cell(tmp_path, "methods", way=5, method="maml++").endswith("†")


def with_tests(results, run, **changes):
    """Adds each test of a run once more, under other conditions."""
    workdir = Workdir(results / run.name)
    kept = workdir.results()
    kept["test"] += [dataclasses.replace(test, **changes) for test in kept["test"]]
    workdir.write_results(kept, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rotated": "no"}, {"rotated, 1 query", "not rotated, 1 query"}),
        ({"query": 10}, {"rotated, 1 query", "rotated, 10 queries"}),
        ({"inner_steps": 10}, {"rotated, 1 query"}),
    ],
)
def test_every_condition_has_a_row_that_says_so(tmp_path, changes, words):
    write_run(tmp_path, MAML, 0.9)
    with_tests(tmp_path, MAML, accuracy=0.5, **changes)
    seen = found(all_tables(tmp_path), "methods", way=5, method="maml")
    assert len(seen) == 2
    assert {row["test"] for row in seen} == words
    assert {row["batch, ensemble"] for row in seen} == {"90.00", "50.00"}
    listed = found(all_tables(tmp_path), "table4", shot=1, method="maml")
    assert {row["test"] for row in listed} == words  # of other inner steps there is no row
    assert len(listed) == len(words)


def test_the_summary_keeps_to_the_runs_own_condition(tmp_path):
    write_run(tmp_path, MAML, 0.9, tasks=6000)
    for changes in ({"query": 10}, {"rotated": "no"}):
        with_tests(tmp_path, MAML, accuracy=0.5, tasks=600, **changes)
    (row,) = found(all_tables(tmp_path), "summary", task="Omniglot 5-way", method="maml")
    assert (row["ensemble"], row["test"]) == ("90.00 [± 0.50]", "rotated, 1 query")
    variant = MAML._replace(variant="brief")
    write_run(tmp_path, variant, 0.9)
    with_tests(tmp_path, variant, accuracy=0.5, query=10)
    seen = {row["test"]: row["`batch`"] for row in rows(all_tables(tmp_path)["statistics"])}
    assert seen == {"rotated, 1 query": "89.00 ± 0.50", "rotated, 10 queries": "50.00 ± 0.50"}


def test_an_option_is_compared_with_plain_mamlpp(tmp_path):
    plain = MAML._replace(method="maml++")
    write_seeds(tmp_path, plain, (90, 91, 92))
    write_seeds(tmp_path, plain._replace(variant="average"), (91, 91, 94))
    text = cell(tmp_path, "options", way=5, variant="average")
    assert text == "92.00 ± 1.73 (+1.00 ± 1.00)"
    assert cell(tmp_path, "options", way=5, variant="smoothing") == "no run"


def test_an_interval_over_classes_says_so(tmp_path):
    write_run(tmp_path, MAML, 0.9)
    workdir = Workdir(tmp_path / MAML.name)
    kept = workdir.results()
    kept["test"] = [dataclasses.replace(test, ci95_by_class=0.012) for test in kept["test"]]
    workdir.write_results(kept, {})
    assert cell(tmp_path, "table4", shot=1, method="maml") == "90.00 [± 1.20 over classes]"
