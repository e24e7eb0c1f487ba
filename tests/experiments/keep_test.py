"""What is kept of a run: every file, traceable and small."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors

from experiments.paper import keep as keep_lib
from experiments.paper.keep import keep
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.inference.trained_run import load_run
from tests.helpers.small_runs import patterns, small_config

KEPT = {
    *("config.json", "correct_per_task.npz", "data.json", "epochs.jsonl", "results.json"),
    *("results.md", "weights.safetensors"),
}
FIGURES = {
    f"{n}.png" for n in ("accuracy_per_inner_step", "episode", "inner_rates", "learning_curves")
}

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


def test_weights_are_those_of_the_best_epoch(workdir, kept):
    run = load_run(workdir.path)
    with safetensors.safe_open(kept / "weights.safetensors", "numpy") as file:
        about, names = file.metadata(), set(file.keys())
        kernel = file.get_tensor("params/conv0/kernel")
        rates = file.get_tensor("inner/conv0/kernel")
    np.testing.assert_array_equal(kernel, run.meta.params["conv0"]["kernel"])
    np.testing.assert_array_equal(rates, run.meta.inner["conv0"]["kernel"])
    assert len(names) == len(jax.tree.leaves((run.meta, run.batch_stats)))
    assert (about["method"], about["protocol"], about["seed"]) == ("maml++", "none", "0")
    assert (about["epoch"], about["step"]) == (str(run.epoch), str(run.step))


def test_figures_that_do_not_fit_are_left_out(workdir, tmp_path, monkeypatch):
    keep(workdir, tmp_path / "all")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "all").glob("*.png"))
    rest = sum(p.stat().st_size for p in (tmp_path / "all").iterdir() if p.suffix != ".png")
    monkeypatch.setattr(keep_lib, "LIMIT_BYTES", rest + sum(sizes[:2]))
    keep(workdir, tmp_path / "some")
    assert sorted(path.stat().st_size for path in (tmp_path / "some").glob("*.png")) == sizes[:2]


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


def test_a_run_that_failed_at_first_leaves_no_trace_of_it(workdir, tmp_path):
    keep(workdir, tmp_path / "kept", "loss is nan at outer step 7 (epoch 3)")
    (tmp_path / "kept" / "older.png").touch()
    keep(workdir, tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == KEPT | FIGURES
