"""Training and evaluating inside a process, as a notebook does, and recipes of other tools."""

import logging
import signal
import sys
import types

import jax
import numpy as np
import optuna
import pytest

import mamlpp_jax as maml
from experiments.examples.log_to_mlflow import LogToMlflow
from experiments.examples.log_to_wandb import LogToWandb
from experiments.examples.prune_with_optuna import search
from mamlpp_jax.errors import ConfigError, MamlppError
from mamlpp_jax.inference.model import from_runs
from mamlpp_jax.inference.saved_model import save_model
from mamlpp_jax.inference.trained_run import load_best
from tests.helpers.small_runs import patterns, small_config

pytestmark = pytest.mark.usefixtures("use_patterns")


class Heard(maml.Callback):
    """Notes what it hears of; interrupts the process, as Ctrl-C does, at the n-th news of steps."""

    def __init__(self, interrupt_at=None):
        self.steps, self.epochs, self.outcomes, self.interrupt_at = [], [], [], interrupt_at

    def on_steps(self, records):
        self.steps += [record["step"] for record in records]
        if len(self.steps) == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)

    def on_epoch(self, record):
        self.epochs.append(record["val_accuracy"])

    def on_end(self, outcome):
        self.outcomes.append(outcome)


def process_state():
    """What a call must leave as it was."""
    root, absl = logging.getLogger(), logging.getLogger("absl")
    return (
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        signal.set_wakeup_fd(-1),
        [(logger.level, logger.handlers[:], logger.filters[:]) for logger in (root, absl)],
        sys.unraisablehook,
        dict(jax.config.values),
    )


@pytest.mark.slow
def test_a_notebook_trains_twice_is_interrupted_once_and_nothing_of_the_process_changes(tmp_path):
    config = small_config(
        "fomaml", **{"checkpoint.every_minutes": 1e-9, "compute.steps_per_dispatch": 1}
    )
    before, stored = process_state(), config.to_dict()
    whole, heard = maml.train(config), Heard(3)
    with pytest.raises(KeyboardInterrupt, match="saved after outer step"):
        maml.train(config, tmp_path / "run", [heard])
    outcome = maml.train(config, tmp_path / "run", [heard])
    assert process_state() == before
    assert config.to_dict() == stored
    assert heard.steps == [1, 2, 3, 4, 5, 6]
    assert len(heard.epochs) == 3
    assert heard.outcomes == [outcome]
    assert outcome.evaluations == whole.evaluations
    for ours, theirs in zip(outcome.members, whole.members, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours.meta, theirs.meta)
    assert maml.train(config, tmp_path / "run").evaluations == whole.evaluations


@pytest.mark.slow
def test_without_a_workdir_no_file_is_written_and_numbers_are_the_commands(
    finished, finished_config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    outcome = maml.train(finished_config)
    assert list(tmp_path.iterdir()) == []
    assert outcome.evaluations == finished.results()["test"]
    per_task = finished.correct_per_task()
    assert all(np.array_equal(outcome.correct[key], per_task[key]) for key in per_task)
    first = outcome.evaluations[0]
    right = outcome.predictions.logits[:, -1].argmax(-1) == outcome.predictions.labels
    assert outcome.accuracy == first.accuracy == pytest.approx(right.mean())
    assert outcome.ci95 == first.ci95


def test_a_run_is_evaluated_without_a_change_of_its_folder(finished, tmp_path):
    before = {path: path.read_bytes() for path in finished.path.rglob("*") if path.is_file()}
    outcome = maml.evaluate(finished.path, shot=2, statistics="support")
    assert (outcome.evaluations[0].shot, outcome.evaluations[0].eval_statistics) == (2, "support")
    assert {p: p.read_bytes() for p in finished.path.rglob("*") if p.is_file()} == before
    again = maml.evaluate(maml.load_run(finished.path))
    best = [test for test in finished.results()["test"] if test.model == "best"]
    assert [e.accuracy for e in again.evaluations if e.model == "best"] == [
        test.accuracy for test in best
    ]
    save_model(tmp_path / "saved", from_runs(load_best(finished.path, 3)))
    saved = maml.evaluate(tmp_path / "saved")
    assert saved.evaluations == finished.results()["test"]
    with pytest.raises(ConfigError, match="shots is no condition of a test; there are way, shot"):
        maml.evaluate(finished.path, shots=2)


def test_a_sampler_gives_the_tasks_of_a_whole_configuration(finished_config, finished):
    sampler = maml.make_sampler(finished_config, patterns(), "test")
    episodes = jax.jit(sampler)(jax.random.key(0), np.arange(5))
    assert episodes.support.inputs.shape == (5, 3, 16, 16, 1)
    same = sampler(jax.random.key(0), np.arange(3, 5))
    np.testing.assert_array_equal(same.query.inputs, episodes.query.inputs[3:])
    outcome = maml.evaluate(finished.path, episodes, adapted=True)
    assert outcome.evaluations[0].tasks == 5
    assert outcome.adapted["linear"]["kernel"].shape[0] == 5
    one = jax.tree.map(lambda leaf: leaf[0], episodes)
    logits = maml.adapt_and_predict(outcome, one.support, one.query.inputs, statistics="batch")
    np.testing.assert_allclose(logits, outcome.predictions.logits[0, -1], atol=1e-4)


def test_the_error_of_a_callback_reaches_the_caller_and_work_is_saved(tmp_path):
    class Full(maml.Callback):
        def on_epoch(self, record):
            raise OSError("disk of the tracker is full")

    config = small_config("fomaml")
    with pytest.raises(OSError, match="tracker"):
        maml.train(config, tmp_path, [Full()])
    assert maml.load_run(tmp_path, "latest").step == 2


def test_a_finished_run_says_how_to_go_on_from_it(finished, finished_config):
    for field, value in (("train.epochs", 4), ("train.learning_rate", 0.0005)):
        changed = finished_config.copy_and_resolve_references()
        changed.update_from_flattened_dict({field: value})
        with pytest.raises(MamlppError, match=rf"{field}: .*train\.start_from={finished.path}"):
            maml.train(changed, finished.path)


@pytest.mark.slow
def test_the_recipe_of_optuna_prunes():
    study = search(
        small_config("fomaml"), 2, optuna.pruners.ThresholdPruner(lower=1.1, n_warmup_steps=0)
    )
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.PRUNED}
    assert all(list(trial.intermediate_values) == [0] for trial in study.trials)


@pytest.mark.slow
def test_the_recipes_of_trackers_log():
    logged, rows = [], []
    mlflow = types.SimpleNamespace(
        log_metric=lambda name, value, step=None: logged.append((name, step))
    )
    run = types.SimpleNamespace(log=lambda values, step: rows.append((*values, step)), summary={})
    outcome = maml.train(small_config("fomaml"), None, [LogToMlflow(mlflow), LogToWandb(run)])
    assert [step for name, step in logged if name == "val_accuracy"] == [2, 4, 6]
    assert logged[-1] == ("test_accuracy", None)
    assert ("loss", "accuracy", 6) in rows
    assert run.summary == {"test_accuracy": outcome.accuracy}
