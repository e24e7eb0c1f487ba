"""Whole small runs: train, resume, finish, report; and what they leave on disk."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from mamlpp_jax import FewShotClassifier
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.cli.reporting import print_results
from mamlpp_jax.training import trainer
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.experiment import Experiment
from mamlpp_jax.training.preemption import PreemptionHandler, StoppedError
from tests.helpers.refusals import refused
from tests.helpers.sample_results import ROW
from tests.helpers.small_runs import patterns, small_config, small_experiment

RESULT_KEYS = [
    "experiment",
    "method",
    "protocol",
    "protocol_version",
    "seed",
    "steps",
    "finished",
    "commit",
    "hardware",
    "config",
    "best_epochs",
    "test",
]

# In one process, so that the finished run is made once.
pytestmark = [pytest.mark.xdist_group("commands"), pytest.mark.usefixtures("use_patterns")]


def test_mamlpp_compiles_exactly_three_train_functions(finished_and_compiled):
    _, compiled = finished_and_compiled
    assert compiled == [1, 1, 1]


def test_results_have_the_documented_keys(finished):
    results = json.loads(finished.results_file.read_text())
    assert list(results) == RESULT_KEYS
    assert results["finished"] is True
    assert results["steps"] == 6
    assert results["config"] == json.loads(finished.config_file.read_text())
    assert len(results["test"]) == 4
    for row in results["test"]:
        assert row.keys() == {*ROW, "epochs", "classes", "images", "ci95_by_class"}
        assert 0 <= row["accuracy"] <= 1
        assert len(row["accuracy_per_step"]) == 3
    assert [row["model"] for row in results["test"]] == ["ensemble", "best"] * 2
    assert {row["eval_statistics"] for row in results["test"]} == {"batch", "support"}


def test_metrics_have_one_line_per_outer_step_and_one_per_validation(finished):
    rows = read_metrics(finished.path)
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in steps] == [0, 0, 1, 1, 2, 2]
    assert set(steps[0]) == {"step", "epoch", "loss", "accuracy", "learning_rate", "grad_norm"}
    rates = [row["learning_rate"] for row in steps]
    assert rates[0] == pytest.approx(1e-3)
    assert rates == sorted(rates, reverse=True)
    validations = [row for row in rows if "val_accuracy" in row]
    assert [row["step"] for row in validations] == [2, 4, 6]
    assert validations[0]["val_accuracy"] == validations[0]["val_accuracy_batch"]
    assert "val_accuracy_support" not in validations[0]


def test_figures_and_page_are_there(finished):
    for name in ("learning_curves", "accuracy_per_inner_step", "inner_rates", "episode"):
        assert (finished.path / f"{name}.png").stat().st_size > 1000
    page = (finished.path / "results.md").read_text()
    assert "episode.png" in page
    assert "support" in page


def test_a_finished_run_only_reports(finished, finished_config, monkeypatch, capsys):
    before = finished.results_file.read_bytes()
    monkeypatch.setattr(commands, "load_dataset", lambda data: pytest.fail("data were loaded"))
    print_results(commands.train(finished_config, finished).results, finished)
    printed = capsys.readouterr().out
    assert "batch/support" in printed
    assert f"-m mamlpp_jax.predict --model={finished} --support=EXAMPLES" in printed
    assert finished.results_file.read_bytes() == before


def last_state(workdir):
    experiment = small_experiment()
    with Checkpoints(workdir.path, num_best=3) as checkpoints:
        state = checkpoints.restore(checkpoints.latest_step(), experiment.state_shapes())
    return jax.tree.leaves(jax.device_get(state))


class _CrashError(Exception):
    pass


class CrashAt:
    """In the place of `PreemptionHandler`: the run crashes at the n-th question."""

    def __init__(self, question):
        self.left = question

    def reason(self):
        self.left -= 1
        if self.left == 0:
            raise _CrashError
        return ""

    def check_signal(self):
        pass

    check = check_signal


# Quick compilation rounds otherwise where dispatches have another size.
@pytest.mark.slow
@pytest.mark.parametrize("steps_per_dispatch", [2, 1])
def test_a_crashed_run_ends_where_the_uninterrupted_one_does(
    finished, finished_config, tmp_path, steps_per_dispatch
):
    """Bit for bit, also when it is started again with another dispatch size."""
    workdir, config = Workdir(tmp_path), finished_config.copy_and_resolve_references()
    config.checkpoint.every_minutes, config.compute.steps_per_dispatch = 1e-9, steps_per_dispatch
    with pytest.raises(_CrashError):
        commands.train(config, workdir, CrashAt(2))
    with Checkpoints(tmp_path, 3) as checkpoints:
        assert 0 < checkpoints.latest_step() < 6
    config.compute.steps_per_dispatch = 0
    commands.train(config, workdir)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (
        finished.path / "metrics.jsonl"
    ).read_bytes()
    for a, b in zip(last_state(workdir), last_state(finished), strict=True):
        np.testing.assert_array_equal(a, b)
    results, expected = workdir.results(), finished.results()
    assert results["test"] == expected["test"]
    assert results["best_epochs"] == expected["best_epochs"]


SINGLE = ["maml", "maml+msl", "maml+da", "maml+lslr", "maml+ca"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["maml+bnrs+bnwb", *SINGLE])
def test_every_method_of_table_1_takes_steps(tmp_path, method):
    workdir = Workdir(tmp_path / "run")
    fields = {"train.epochs": 1, "evaluation.ensemble": 1, "norm.eval_statistics": "batch"}
    commands.train(small_config(method, **fields), workdir)
    losses = [row["loss"] for row in read_metrics(workdir.path) if "loss" in row]
    assert len(losses) == 2
    assert np.all(np.isfinite(losses))
    assert workdir.results()["method"] == method


@pytest.mark.slow
def test_a_tasknorm_run_is_tested_in_its_mode_and_used_with_it(tmp_path, capsys):
    config, workdir = small_config("mamlpp+tasknorm"), Workdir(tmp_path / "run")
    commands.dry_run(config, workdir)
    assert "norm0/blend      2x2" in capsys.readouterr().out
    commands.train(config, workdir)
    commands.evaluate(config, workdir, {"statistics": "support,tasknorm", "tasks": 6})
    tests = workdir.results()["test"]
    assert {test["eval_statistics"] for test in tests} == {"tasknorm", "support"}
    model = FewShotClassifier.from_pretrained(workdir.path).model
    assert model.statistics == "tasknorm"
    assert model.meta.norm["norm0"]["blend"].shape == (1, 2, 2)


@pytest.mark.slow
def test_dry_run_prints_everything_and_writes_nothing(tmp_path, capsys):
    workdir = Workdir(tmp_path / "run")
    commands.dry_run(small_config(), workdir)
    text = capsys.readouterr().out
    for part in (
        f"workdir: {workdir}",
        "3x3x1x4",
        "all meta-parameters",
        "MiB",
        "order 1, multi-step",
        "order 2, last-step",
    ):
        assert part in text
    assert "epochs 1-1 (outer steps 3-4): order 2, multi-step loss" in text
    assert not workdir.path.exists()


def test_a_run_whose_classes_are_split_otherwise_is_not_continued(copied):
    recorded = json.loads(copied.data_file.read_text())
    assert sorted(recorded["classes"]) == ["test", "train", "val"]
    recorded["classes"]["test"].reverse()
    copied.data_file.write_text(json.dumps(recorded))
    copied.results_file.unlink()
    for command in (
        lambda: commands.train(copied.config(), copied),
        lambda: commands.evaluate(copied.config(), copied, {}),
        lambda: commands.dry_run(copied.config(), copied),
    ):
        with refused(copied.path, "other classes in its test split"):
            command()


def test_hosts_may_have_their_data_in_different_folders():
    def on_host(folder, **fields):
        configs = [small_config(), small_config("maml", **fields)]
        for config in configs:
            for name in ("tfds_dir", "manual_dir", "cache_dir"):
                config.data[name] = folder
        return commands.to_compare(configs[0], {"way": 2}, configs[1])

    assert on_host("/here") == on_host("/there")
    assert on_host("/here") != on_host("/here", **{"data.normalize": "imagenet"})
    json.dumps(on_host("/here"))


@pytest.fixture
def listening():
    with PreemptionHandler().listening() as handler:
        yield handler


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_stop_while_the_data_are_made_is_obeyed_before_the_workdir_is_claimed(
    tmp_path, monkeypatch, listening
):
    monkeypatch.setattr(commands, "load_dataset", lambda data: stop() or patterns())
    workdir = Workdir(tmp_path / "run")
    with pytest.raises(StoppedError, match="received SIGTERM; the run goes on when"):
        commands.train(small_config(), workdir, listening)
    assert not workdir.path.exists()


def test_a_stop_while_the_first_state_is_made_is_obeyed_before_anything_is_compiled(
    tmp_path, monkeypatch, listening
):
    init_run_state = Experiment.init_run_state
    monkeypatch.setattr(Experiment, "init_run_state", lambda self: stop() or init_run_state(self))
    monkeypatch.setattr(trainer, "jitted_train_steps", lambda *_: pytest.fail("was compiled"))
    workdir = Workdir(tmp_path / "run")
    with pytest.raises(StoppedError, match="received SIGTERM"):
        commands.train(small_config(), workdir, listening)
    assert not (workdir.path / "metrics.jsonl").exists()
