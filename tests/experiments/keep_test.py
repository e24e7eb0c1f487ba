"""The archive of a run: every file, traceable and small."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from experiments.paper import keep as keep_lib
from experiments.paper.keep import archive as archive_run
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.provenance import describe
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.inference.model import from_runs
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.inference.saved_model import load_model
from tests.helpers.refusals import refused
from tests.helpers.small_runs import patterns, small_config

FILES = {
    *("config.json", "predictions.npz", "data.json", "epochs.jsonl", "results.json"),
    *("results.md", "model.json", "model.safetensors", "README.md"),
}
MODEL = {"model.json", "model.safetensors", "README.md"}
FIGURES = {
    f"{n}.png" for n in ("accuracy_per_inner_step", "episode", "inner_rates", "learning_curves")
}
RESULTS = pathlib.Path(__file__).parents[2] / "experiments/results"

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
def archive(workdir, tmp_path_factory):
    output = tmp_path_factory.mktemp("archive") / "run"
    archive_run(workdir, output)
    return output


def test_everything_is_archived_and_small(archive):
    assert {path.name for path in archive.iterdir()} == FILES | FIGURES
    assert sum(path.stat().st_size for path in archive.iterdir()) < keep_lib.LIMIT_BYTES


def test_a_small_copy_has_the_numbers_alone(workdir, tmp_path):
    archive_run(workdir, tmp_path, small=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == FILES - {"results.md", *MODEL}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 40_000


def test_results_are_the_runs_without_its_folders(workdir, archive):
    theirs = json.loads((workdir.path / "results.json").read_text())
    assert theirs["config"]["data"]["cache_dir"] == "/somewhere/here"
    theirs["config"]["data"]["cache_dir"] = ""
    assert json.loads((archive / "results.json").read_text()) == theirs
    assert json.loads((archive / "config.json").read_text()) == theirs["config"]
    assert not any(b"/somewhere" in path.read_bytes() for path in archive.iterdir())


def test_data_are_counted_not_listed(archive):
    data = json.loads((archive / "data.json").read_text())
    assert data["num_classes"] == {"train": 8, "val": 4, "test": 4}
    assert len(data["sha256"]) == 64


def test_a_line_per_epoch_has_means_validation_and_times(workdir, archive):
    metrics = read_metrics(workdir.path)
    records = [json.loads(line) for line in (archive / "epochs.jsonl").read_text().splitlines()]
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


def test_an_epoch_says_where_it_was_made(workdir, archive, tmp_path):
    first, *_ = records = [
        json.loads(s) for s in (archive / "epochs.jsonl").read_text().splitlines()
    ]
    assert {record["made"] for record in records} == {first["made"]}
    assert first["made"] == describe(json.loads((archive / "results.json").read_text()))
    moved = shutil.copytree(workdir.path, tmp_path / "moved")
    with (moved / "timing.jsonl").open(
        "a"
    ) as file:  # as if it went on elsewhere after outer step 3
        file.write('{"step": 3, "made": "Abacus"}\n')
    made = [record["made"] for record in keep_lib.epoch_records(Workdir(moved), 2)]
    assert made == [first["made"], "Abacus", "Abacus"]


def same(ours, theirs):
    assert ours.settings == theirs.settings
    assert (ours.config, ours.image_format) == (theirs.config, theirs.image_format)
    for a, b in ((ours.meta, theirs.meta), (ours.batch_stats, theirs.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_archive_is_a_saved_model_of_the_best_epoch(workdir, archive):
    same(find_model(archive), find_model(workdir.path))
    assert load_model(archive).steps == find_model(workdir.path).steps


def test_every_member_can_be_archived_whatever_the_size(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(keep_lib, "LIMIT_BYTES", 20_000)
    archive_run(workdir, tmp_path, members=True)
    members = find_model(workdir.path, 3)
    assert len(members.steps) == 3
    same(find_model(tmp_path), members)
    same(find_model(tmp_path, 1), members.first_members(1))
    assert not list(tmp_path.glob("*.png"))


def test_weights_are_stored_in_half_precision_where_that_is_asked_for(workdir, archive, tmp_path):
    archive_run(workdir, tmp_path, half=True)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (archive, tmp_path)]
    assert 0.5 * sizes[0] < sizes[1] < 0.8 * sizes[0]  # names and shapes stay as long
    ours, theirs = find_model(tmp_path), find_model(archive)
    for half, whole in zip(*map(jax.tree.leaves, (ours.meta, theirs.meta)), strict=True):
        assert half.dtype == whole.dtype == np.float32
        np.testing.assert_array_equal(half, whole.astype(np.float16).astype(np.float32))


def test_a_number_that_half_precision_lacks_is_refused_by_name(workdir, tmp_path, monkeypatch):
    def with_a_large_number(runs):
        model = from_runs(runs)
        model.meta.params["linear"]["bias"][0, 0] = 1e6
        return model

    monkeypatch.setattr(keep_lib, "from_runs", with_a_large_number)
    with refused(tmp_path, "'params/linear/bias' has numbers beyond those of float16"):
        archive_run(workdir, tmp_path / "archive", half=True)
    assert not (tmp_path / "archive").exists()


def test_a_folder_without_weights_says_so(workdir, tmp_path):
    archive_run(workdir, tmp_path, small=True)
    with refused(tmp_path, r"neither its checkpoints nor model\.json"):
        find_model(tmp_path)


def test_weights_say_whose_they_are(archive):
    with safetensors.safe_open(archive / "model.safetensors", "numpy") as file:
        about = file.metadata()
    assert (about["method"], about["protocol"], about["seed"]) == ("maml++", "none", "0")
    assert about["steps"] == str(find_model(archive).steps[0])


def test_the_finished_run_of_a_version_with_other_fields_is_used_as_it_is(workdir, tmp_path):
    """Evaluated, archived and made a model of; its configuration has removed fields and lacks later ones."""
    older = Workdir(shutil.copytree(workdir.path, tmp_path / "older"))
    stored = json.loads(older.config_file.read_text())
    stored["model"]["drop_block"] = stored["inner"]["rate_decay"] = 0.0
    del stored["model"]["shared_head"], stored["compute"]["remat"], stored["protocol"]
    older.config_file.write_text(json.dumps(stored))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "load_dataset", lambda data: patterns())
        config = commands.resolve_config("evaluate", None, older, {"tasks": 5})
        commands.evaluate(config, older, {"tasks": 5})
        commands.train(small_config(), older)  # It is finished: nothing is trained.
    assert {test.tasks for test in older.results()["test"]} == {4, 5}
    archive_run(older, tmp_path / "archive")
    same(find_model(tmp_path / "archive"), find_model(workdir.path))


def test_every_archived_run_with_weights_can_be_used():
    folders = [path.parent for path in RESULTS.glob("*/*.safetensors")]
    assert len(folders) >= 27
    for folder in folders:
        assert find_model(folder).steps[0] > 0


def test_figures_that_do_not_fit_are_left_out(workdir, tmp_path, monkeypatch):
    archive_run(workdir, tmp_path / "all")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "all").glob("*.png"))
    rest = sum(p.stat().st_size for p in (tmp_path / "all").iterdir() if p.suffix != ".png")
    monkeypatch.setattr(keep_lib, "LIMIT_BYTES", rest + sum(sizes[:2]))
    archive_run(workdir, tmp_path / "some")
    assert sorted(path.stat().st_size for path in (tmp_path / "some").glob("*.png")) == sizes[:2]


def test_weights_that_do_not_fit_are_left_out_also_those_of_an_earlier_copy(
    workdir, tmp_path, monkeypatch
):
    archive_run(workdir, tmp_path)
    monkeypatch.setattr(keep_lib, "LIMIT_BYTES", 1_000)
    archive_run(workdir, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES - MODEL


def test_of_a_run_that_failed_there_is_its_reason_and_its_training(workdir, tmp_path):
    failed = tmp_path / "failed"
    failed.mkdir()
    for name in ("config.json", "data.json", "metrics.jsonl", "timing.jsonl"):
        shutil.copy(workdir.path / name, failed)
    archive_run(Workdir(failed), tmp_path / "archive", "loss is nan at outer step 7 (epoch 3)")
    names = {path.name for path in (tmp_path / "archive").iterdir()}
    assert names == {"config.json", "data.json", "epochs.jsonl", "failure.txt"}
    with pytest.raises(WorkdirError, match=r"results\.json"):
        archive_run(Workdir(failed), tmp_path / "archive")


def test_a_run_that_was_tested_before_its_end_is_not_archived(workdir, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(workdir.path, unfinished)
    results = json.loads((unfinished / "results.json").read_text())
    results.update(finished=False, steps=4)
    (unfinished / "results.json").write_text(json.dumps(results))
    with pytest.raises(
        WorkdirError, match=r"is not finished: its results\.json is of outer step 4"
    ):
        archive_run(Workdir(unfinished), tmp_path / "archive")
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize("missing", ["predictions.npz", "results.md", "data.json"])
def test_an_earlier_copy_stays_where_a_file_of_the_run_is_missing(
    workdir, archive, tmp_path, missing
):
    broken, earlier = tmp_path / "broken", tmp_path / "archive"
    shutil.copytree(workdir.path, broken)
    shutil.copytree(archive, earlier)
    (broken / missing).unlink()
    with refused(tmp_path, missing.replace(".", r"\.")):
        archive_run(Workdir(broken), earlier)


def test_a_run_that_failed_at_first_leaves_no_trace_of_it(workdir, tmp_path):
    archive_run(workdir, tmp_path / "archive", "loss is nan at outer step 7 (epoch 3)")
    (tmp_path / "archive" / "older.png").touch()
    archive_run(workdir, tmp_path / "archive")
    assert {path.name for path in (tmp_path / "archive").iterdir()} == FILES | FIGURES
