"""The training loop: what it runs when, where it may stop, and what it saves and reports.

Most tests put a plain function in the place of the compiled steps, so that every place to stop can be tried.
Whole small runs of the real thing are in `cli/commands_test`.
"""

import json
from functools import partial

import numpy as np
import pytest

from mamlpp_jax.algorithms.metrics import Predictions
from mamlpp_jax.algorithms.outer_loop import StepMetrics
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.training import checkpoint_integrity, trainer
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.experiment import Experiment
from mamlpp_jax.training.preemption import StoppedError
from mamlpp_jax.training.trainer import TrainingDivergedError
from tests.helpers.small_runs import small_experiment

EPOCHS, PER_EPOCH = 3, 4


class _CrashError(Exception):
    pass


class FakeSteps:
    """In the place of `jitted_train_steps`: numbers that depend on the outer step alone."""

    def __init__(self):
        self.calls = []  # (first step, steps, order, multi_step)
        self.crash_before = None
        self.bad_parameter = None
        self.loss = lambda step: 1 / (1 + step)

    def __call__(self, experiment, steps):
        del experiment

        def run(state, source, plan):
            del source
            first = int(state.step)
            if self.crash_before is not None and first + steps > self.crash_before:
                raise _CrashError
            self.calls.append((first, steps, plan.order, plan.multi_step))
            losses = np.array([self.loss(step) for step in range(first, first + steps)])
            sound = np.arange(first, first + steps) != self.bad_parameter
            metrics = StepMetrics(losses, losses, losses, sound)
            return state._replace(step=state.step + steps), metrics

        return run


@pytest.fixture(scope="module")
def shared_state():
    return small_experiment().init_run_state()


@pytest.fixture
def fake(monkeypatch, shared_state):
    steps = FakeSteps()
    monkeypatch.setattr(trainer, "jitted_train_steps", steps)
    monkeypatch.setattr(
        trainer, "jitted_evaluator", lambda *given, **_: partial(_predict, given[2])
    )
    monkeypatch.setattr(Experiment, "init_run_state", lambda self: shared_state)
    return steps


def _predict(modes, meta, batch_stats, tasks, report=None):
    """Right about two tasks, about the other two for one class of three."""
    del meta, batch_stats, tasks, report
    logits = np.zeros((4, 1, 3, 3))
    logits[:2] = np.eye(3)
    return dict.fromkeys(modes, Predictions(logits, np.tile(np.arange(3), (4, 1))))


def run(workdir, preemption=None, method="maml++", **fields):
    """Trains, one outer step at a time; returns the latest step and the best ones."""
    usual = {
        "train.epochs": EPOCHS,
        "train.steps_per_epoch": PER_EPOCH,
        "compute.steps_per_dispatch": 1,
    }
    experiment = small_experiment(method, **{**usual, **fields})
    best = experiment.config.evaluation.ensemble
    with Checkpoints(workdir, best) as checkpoints:
        trainer.train(experiment, Workdir(workdir), checkpoints, preemption)
        return checkpoints.latest_step(), checkpoints.best_steps(best)


def latest_step(workdir):
    with Checkpoints(workdir, 3) as checkpoints:
        return checkpoints.latest_step()


def test_orders_and_losses_of_the_annealed_schedule(tmp_path, fake):
    run(tmp_path)
    assert [first for first, *_ in fake.calls] == list(range(EPOCHS * PER_EPOCH))
    kinds = [(order, multi_step) for _, _, order, multi_step in fake.calls]
    assert kinds == [(1, True)] * 4 + [(2, True)] * 4 + [(2, False)] * 4


def test_metrics_have_the_numbers_of_each_step(tmp_path, fake):
    run(tmp_path, **{"compute.steps_per_dispatch": 2})
    rows = [row for row in read_metrics(tmp_path) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, EPOCHS * PER_EPOCH + 1))
    assert [row["loss"] for row in rows] == [1 / step for step in range(1, 13)]
    assert [row["epoch"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert rows[0]["learning_rate"] == pytest.approx(1e-3)
    assert 1e-5 < rows[-1]["learning_rate"] < 3e-5


def test_validation_is_under_the_first_statistics_mode_alone(tmp_path, fake):
    run(tmp_path, **{"norm.eval_statistics": "support,batch"})
    rows = [row for row in read_metrics(tmp_path) if "val_accuracy" in row]
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    accuracy = pytest.approx((1 + 1 + 1 / 3 + 1 / 3) / 4)
    for row in rows:
        assert row["val_accuracy"] == row["val_accuracy_support"] == accuracy
        assert row.keys() == {
            "step",
            "epoch",
            "val_accuracy",
            "val_accuracy_support",
            "val_ci95_support",
            "val_loss_support",
        }


@pytest.mark.parametrize("saves", ["always", "each epoch", "rarely"])
@pytest.mark.parametrize("crash", [1, 2, 3, 4, 5, 7, 8, 11])
def test_a_run_that_crashed_anywhere_writes_what_the_uninterrupted_one_does(
    tmp_path, fake, crash, saves, monkeypatch
):
    """Also with other dispatch sizes afterwards."""
    every_minutes = 1e-9 if saves == "always" else 60.0
    if saves == "each epoch":
        monkeypatch.setattr(trainer, "MINUTES_BETWEEN_EPOCHS", 0.0)
    whole, crashed = tmp_path / "whole", tmp_path / "crashed"
    run(whole)
    fake.crash_before = crash
    with pytest.raises(_CrashError):
        run(crashed, **{"checkpoint.every_minutes": every_minutes})
    in_epoch = crash % PER_EPOCH
    # A save inside an epoch waits until a dispatch of that epoch is through.
    expected = {"always": crash, "each epoch": crash - in_epoch, "rarely": 0}[saves]
    assert (latest_step(crashed) or 0) == expected
    fake.crash_before, fake.calls = None, []
    assert run(crashed, **{"compute.steps_per_dispatch": 4}) == (12, [12, 8, 4])
    assert fake.calls[0][:2] == (expected, np.gcd(PER_EPOCH, expected))
    assert (crashed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_finished_run_trains_no_more(tmp_path, fake):
    run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    fake.calls = []
    assert run(tmp_path) == (12, [12, 8, 4])
    assert fake.calls == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_fewer_epochs_than_the_ensemble_has(tmp_path, fake):
    del fake
    assert run(tmp_path, **{"train.epochs": 2}) == (8, [8, 4])


def test_epochs_that_took_seconds_are_saved_together(tmp_path, fake, monkeypatch):
    written = []
    write_manifest = checkpoint_integrity.write_manifest

    def record(checkpoint):
        written.append(int(checkpoint.name.partition(".")[0]))
        write_manifest(checkpoint)

    monkeypatch.setattr(checkpoint_integrity, "write_manifest", record)
    assert run(tmp_path, **{"train.epochs": 5}) == (20, [20, 16, 12])
    assert written == [12, 16, 20]  # only the best
    timing = map(json.loads, (tmp_path / "timing.jsonl").read_text().splitlines())
    assert [row["step"] for row in timing if "save_seconds" in row] == [20]  # at the end


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, fake, bad):
    """Found although the next dispatch has begun, and before it could be saved."""
    fake.loss = lambda step: bad if step >= 5 else 1.0
    with pytest.raises(TrainingDivergedError, match=rf"loss is {bad} at outer step 6 \(epoch 2\)"):
        run(tmp_path, **{"checkpoint.every_minutes": 1e-9})
    assert latest_step(tmp_path) == 5
    assert all(np.isfinite(row["loss"]) for row in read_metrics(tmp_path) if "loss" in row)


def test_the_sound_steps_of_the_dispatch_that_diverges_are_written(tmp_path, fake):
    fake.loss = lambda step: float("nan") if step >= 6 else 1.0
    with pytest.raises(TrainingDivergedError, match="at outer step 7 "):
        run(tmp_path, **{"compute.steps_per_dispatch": 4})
    assert [row["step"] for row in read_metrics(tmp_path) if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_good_epochs_in_memory_are_saved_when_a_run_diverges(tmp_path, fake):
    fake.loss = lambda step: float("nan") if step >= 9 else 1.0
    with pytest.raises(TrainingDivergedError, match="at outer step 10 "):
        run(tmp_path)
    assert latest_step(tmp_path) == 8


def test_a_meta_parameter_that_is_no_number_stops_the_run_and_spoils_nothing(tmp_path, fake):
    fake.bad_parameter = 6
    with pytest.raises(TrainingDivergedError, match=r"meta-parameter .* outer step 7"):
        run(tmp_path, **{"checkpoint.every_minutes": 1e-9})
    assert latest_step(tmp_path) == 6
    assert read_metrics(tmp_path)[-1]["step"] <= 6


@pytest.mark.slow
def test_a_huge_inner_rate_really_diverges(tmp_path):
    with pytest.raises(TrainingDivergedError, match=r"(loss|grad_norm) is .* at outer step 1 "):
        run(tmp_path, method="maml", **{"inner.learning_rate": 1e38, "train.epochs": 1})
    assert latest_step(tmp_path) is None


class StopAt:
    """In the place of `PreemptionHandler`: there is a reason at the n-th question."""

    def __init__(self, question):
        self.left = question

    def check_signal(self):
        """Before the first dispatch there is nothing to save."""

    def reason(self):
        self.left -= 1
        return "requested" if self.left == 0 else ""


@pytest.mark.parametrize("question", range(1, 12))
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(tmp_path, fake, question):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(whole)
    with pytest.raises(StoppedError, match=f"saved after outer step {question}"):
        run(stopped, StopAt(question))
    assert latest_step(stopped) == question
    assert run(stopped) == (12, [12, 8, 4])
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
