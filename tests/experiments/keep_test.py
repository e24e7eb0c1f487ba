"""What is kept of a run: every file, traceable and small."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from experiments.paper import keep as keep_lib
from experiments.paper.keep import keep
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.provenance import describe
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.inference.trained_run import load_run
from tests.helpers.refusals import refused
from tests.helpers.small_runs import patterns, small_config

KEPT = {
    *("config.json", "correct_per_task.npz", "data.json", "epochs.jsonl", "results.json"),
    *("results.md", "weights.safetensors"),
}
FIGURES = {
    f"{n}.png" for n in ("accuracy_per_inner_step", "episode", "inner_rates", "learning_curves")
}
KEPT_RUNS = pathlib.Path(__file__).parents[2] / "experiments/results"

# In one process, so that the run is made once.
pytestmark = pytest.mark.xdist_group("keep")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = Workdir(tmp_path_factory.mktemp("runs") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "load_dataset", lambda data: patterns())
        commands.train(small_config(**{"data.cache_dir": "/somewhere/here"}), folder)
    return folder


@pytest.fixture(scope="module")
def kept(workdir, tmp_path_factory):
    output = tmp_path_factory.mktemp("kept") / "run"
    keep(workdir, output)
    return output


def test_everything_is_kept_and_small(kept):
    assert {path.name for path in kept.iterdir()} == KEPT | FIGURES
    assert sum(path.stat().st_size for path in kept.iterdir()) < keep_lib.LIMIT_BYTES


def test_a_small_copy_has_the_numbers_alone(workdir, tmp_path):
    keep(workdir, tmp_path, small=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == KEPT - {"results.md", "weights.safetensors"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 40_000


def test_results_are_the_runs_without_its_folders(workdir, kept):
    theirs = json.loads((workdir.path / "results.json").read_text())
    assert theirs["config"]["data"]["cache_dir"] == "/somewhere/here"
    theirs["config"]["data"]["cache_dir"] = ""
    assert json.loads((kept / "results.json").read_text()) == theirs
    assert json.loads((kept / "config.json").read_text()) == theirs["config"]
    assert not any(b"/somewhere" in path.read_bytes() for path in kept.iterdir())


def test_data_are_counted_not_listed(kept):
    data = json.loads((kept / "data.json").read_text())
    assert data["num_classes"] == {"train": 8, "val": 4, "test": 4}
    assert len(data["sha256"]) == 64


def test_a_line_per_epoch_has_means_validation_and_times(workdir, kept):
    metrics = read_metrics(workdir.path)
    records = [json.loads(line) for line in (kept / "epochs.jsonl").read_text().splitlines()]
    assert [(record["epoch"], record["step"]) for record in records] == [(0, 2), (1, 4), (2, 6)]
    for record in records:
        rows = [row for row in metrics if row["epoch"] == record["epoch"]]
        for key in ("loss", "accuracy", "grad_norm"):
            values = [row[key] for row in rows if key in row]
            assert record[key] == pytest.approx(np.mean(values))
        assert record["grad_norm_max"] == max(row.get("grad_norm", 0) for row in rows)
        assert record["val_accuracy"] == rows[-1]["val_accuracy"]
        assert record["ms_per_step"] > 0
        assert record["seconds"] > 0


def test_an_epoch_says_where_it_was_made(workdir, kept, tmp_path):
    first, *_ = records = [json.loads(s) for s in (kept / "epochs.jsonl").read_text().splitlines()]
    assert {record["made"] for record in records} == {first["made"]}
    assert first["made"] == describe(json.loads((kept / "results.json").read_text()))
    moved = shutil.copytree(workdir.path, tmp_path / "moved")
    with (moved / "timing.jsonl").open(
        "a"
    ) as file:  # as if it went on elsewhere after outer step 3
        file.write('{"step": 3, "made": "Abacus"}\n')
    made = [record["made"] for record in keep_lib.epoch_records(Workdir(moved), 2)]
    assert made == [first["made"], "Abacus", "Abacus"]


def test_the_folder_is_a_model_that_is_the_runs_best_epoch(workdir, kept):
    model, best = find_model(kept), find_model(workdir.path)
    assert model.settings == best.settings
    assert (model.fields, model.image_format) == (best.fields, best.image_format)
    for ours, theirs in ((model.meta, best.meta), (model.batch_stats, best.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_folder_without_weights_says_so(workdir, tmp_path):
    keep(workdir, tmp_path, small=True)
    with refused(tmp_path, r"neither its checkpoints nor weights\.safetensors"):
        find_model(tmp_path)


def test_weights_say_whose_they_are(workdir, kept):
    run = load_run(workdir.path)
    with safetensors.safe_open(kept / "weights.safetensors", "numpy") as file:
        about = file.metadata()
    assert (about["method"], about["protocol"], about["seed"]) == ("maml++", "none", "0")
    assert (about["epoch"], about["step"]) == (str(run.epoch), str(run.step))


def test_a_model_is_read_though_its_run_lacks_later_fields(kept, tmp_path):
    older = shutil.copytree(kept, tmp_path / "older")
    config = json.loads((older / "config.json").read_text())
    del config["norm"]["hand_over"], config["model"]["shared_head"]
    (older / "config.json").write_text(json.dumps(config))
    assert find_model(older).fields == find_model(kept).fields


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("weights.safetensors", b"", r"weights\.safetensors is not readable as safetensors"),
        ("weights.safetensors", safetensors.numpy.save({}), r"weights\.safetensors is damaged"),
        ("config.json", b"{}", r"config\.json is damaged: 'data.normalize' is missing"),
        ("config.json", b"[]", r"config\.json is damaged"),
        ("data.json", b"{}", r"data\.json is damaged: 'channels' is missing"),
        (
            "weights.safetensors",
            safetensors.numpy.save({}, {"step": "4"}),
            r"weights\.safetensors does not have the array",
        ),
    ],
)
def test_a_damaged_model_is_refused_by_name(kept, tmp_path, file, content, said):
    damaged = shutil.copytree(kept, tmp_path / "damaged")
    (damaged / file).write_bytes(content)
    with refused(damaged, said):
        find_model(damaged)


def test_every_run_that_is_kept_with_its_weights_can_be_used():
    folders = [path.parent for path in KEPT_RUNS.glob("*/weights.safetensors")]
    assert folders
    for folder in folders:
        assert find_model(folder).steps[0] > 0


def test_figures_that_do_not_fit_are_left_out(workdir, tmp_path, monkeypatch):
    keep(workdir, tmp_path / "all")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "all").glob("*.png"))
    rest = sum(p.stat().st_size for p in (tmp_path / "all").iterdir() if p.suffix != ".png")
    monkeypatch.setattr(keep_lib, "LIMIT_BYTES", rest + sum(sizes[:2]))
    keep(workdir, tmp_path / "some")
    assert sorted(path.stat().st_size for path in (tmp_path / "some").glob("*.png")) == sizes[:2]


def test_weights_that_do_not_fit_are_left_out_also_those_of_an_earlier_copy(
    workdir, tmp_path, monkeypatch
):
    keep(workdir, tmp_path)
    monkeypatch.setattr(keep_lib, "LIMIT_BYTES", 1_000)
    keep(workdir, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == KEPT - {"weights.safetensors"}


def test_of_a_run_that_failed_there_is_its_reason_and_its_training(workdir, tmp_path):
    failed = tmp_path / "failed"
    failed.mkdir()
    for name in ("config.json", "data.json", "metrics.jsonl", "timing.jsonl"):
        shutil.copy(workdir.path / name, failed)
    keep(Workdir(failed), tmp_path / "kept", "loss is nan at outer step 7 (epoch 3)")
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert names == {"config.json", "data.json", "epochs.jsonl", "failure.txt"}
    with pytest.raises(WorkdirError, match=r"results\.json"):
        keep(Workdir(failed), tmp_path / "kept")


def test_a_run_that_was_tested_before_its_end_is_not_kept(workdir, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(workdir.path, unfinished)
    results = json.loads((unfinished / "results.json").read_text())
    results.update(finished=False, steps=4)
    (unfinished / "results.json").write_text(json.dumps(results))
    with pytest.raises(
        WorkdirError, match=r"is not finished: its results\.json is of outer step 4"
    ):
        keep(Workdir(unfinished), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("missing", ["correct_per_task.npz", "results.md", "data.json"])
def test_an_earlier_copy_stays_where_a_file_of_the_run_is_missing(workdir, kept, tmp_path, missing):
    broken, earlier = tmp_path / "broken", tmp_path / "kept"
    shutil.copytree(workdir.path, broken)
    shutil.copytree(kept, earlier)
    (broken / missing).unlink()
    with refused(tmp_path, missing.replace(".", r"\.")):
        keep(Workdir(broken), earlier)


def test_a_run_that_failed_at_first_leaves_no_trace_of_it(workdir, tmp_path):
    keep(workdir, tmp_path / "kept", "loss is nan at outer step 7 (epoch 3)")
    (tmp_path / "kept" / "older.png").touch()
    keep(workdir, tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == KEPT | FIGURES
