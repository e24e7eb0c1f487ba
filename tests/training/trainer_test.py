"""The training loop: what it runs when, where it may stop, and what the outer loop learns.

Most tests put a plain function in the place of the compiled steps, so that every place to stop can be tried.
Whole small runs of the real thing are in `commands_test`.
"""

import jax
import numpy as np
import optax
import pytest

from mamlpp_jax.algorithms.evaluation import Predictions
from mamlpp_jax.algorithms.outer_loop import StepMetrics
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.training import experiment as program_module
from mamlpp_jax.training import summary
from mamlpp_jax.training import trainer as train_module
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.experiment import build
from mamlpp_jax.training.preemption import StoppedError
from tests.helpers.small_runs import patterns, small_config

EPOCHS, PER_EPOCH = 3, 4
LAYERS = 4


class _StoppedError(Exception):
    pass


class FakeSteps:
    """In the place of `compiled_train_steps`: numbers that depend on the outer step alone."""

    def __init__(self):
        self.calls = []  # (first step, steps, order, multi_step)
        self.stop_before = None
        self.bad_parameter = None
        self.loss = lambda step: 1 / (1 + step)

    def __call__(self, program, steps):
        del program

        def run(state, source, weights, *, order, multi_step):
            first = int(state.step)
            if self.stop_before is not None and first + steps > self.stop_before:
                raise _StoppedError
            self.calls.append((first, steps, order, multi_step))
            losses = np.array([self.loss(step) for step in range(first, first + steps)])
            sound = np.arange(first, first + steps) != self.bad_parameter
            metrics = StepMetrics(losses, losses, losses, sound)
            return state._replace(step=state.step + steps), metrics

        return run


@pytest.fixture(scope="module")
def shared_state():
    return build(small_config(), patterns()).init_state()


@pytest.fixture
def fake(monkeypatch, shared_state):
    steps = FakeSteps()
    monkeypatch.setattr(train_module, "compiled_train_steps", steps)
    monkeypatch.setattr(train_module, "make_evaluators", lambda program: {"batch": _answers})
    monkeypatch.setattr(
        "mamlpp_jax.training.experiment.Program.init_state", lambda self: shared_state
    )
    return steps


def _answers(meta, batch_stats, source):
    del meta, batch_stats, source
    logits = np.zeros((4, 3, 3, 3))
    logits[:2] = np.eye(3)
    return Predictions(logits, np.tile(np.arange(3), (4, 1)))


def config_of(**fields):
    train = {
        "train.epochs": EPOCHS,
        "train.steps_per_epoch": PER_EPOCH,
        "compute.steps_per_dispatch": 1,
    }
    return small_config(**{**train, **fields})


def run(workdir, config, stopper=None):
    program = build(config, patterns())
    with Checkpoints(workdir, config.evaluation.ensemble) as checkpoints:
        train_module.train(program, workdir, checkpoints, stopper)
        return checkpoints.latest_step(), checkpoints.best_steps()


def latest_step(workdir):
    with Checkpoints(workdir, 3) as checkpoints:
        return checkpoints.latest_step()


def test_orders_and_losses_of_the_annealed_schedule(tmp_path, fake):
    run(tmp_path, config_of())
    assert [first for first, *_ in fake.calls] == list(range(EPOCHS * PER_EPOCH))
    kinds = [(order, multi_step) for _, _, order, multi_step in fake.calls]
    assert kinds == [(1, True)] * 4 + [(2, True)] * 4 + [(2, False)] * 4


def test_weights_follow_the_epoch():
    config = config_of(**{"train.multi_step_epochs": 2})
    plans = [train_module.epoch_plan(config, epoch) for epoch in range(3)]
    np.testing.assert_allclose(plans[0].weights, [0.5, 0.5])
    np.testing.assert_allclose(plans[1].weights, [0.25, 0.75])
    assert [plan.multi_step for plan in plans] == [True, True, False]
    assert [plan.order for plan in plans] == [1, 2, 2]


def test_metrics_have_the_numbers_of_each_step(tmp_path, fake):
    run(tmp_path, config_of(**{"compute.steps_per_dispatch": 2}))
    rows = [row for row in read_metrics(tmp_path) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, EPOCHS * PER_EPOCH + 1))
    assert [row["loss"] for row in rows] == [1 / step for step in range(1, 13)]
    assert [row["epoch"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert rows[0]["learning_rate"] == pytest.approx(1e-3)
    assert 1e-5 < rows[-1]["learning_rate"] < 3e-5
    (first, *_) = [row for row in read_metrics(tmp_path) if "val_accuracy" in row]
    assert first["step"] == PER_EPOCH
    assert first["val_accuracy"] == pytest.approx((1 + 1 + 1 / 3 + 1 / 3) / 4)


@pytest.mark.parametrize("saves", ["always", "each epoch", "rarely"])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 7, 8, 11])
def test_a_run_stopped_anywhere_writes_what_the_uninterrupted_one_does(
    tmp_path, fake, stop, saves, monkeypatch
):
    """Also with other dispatch sizes after the stop."""
    every_minutes = 1e-9 if saves == "always" else 60.0
    if saves == "each epoch":
        monkeypatch.setattr(train_module, "MINUTES_BETWEEN_EPOCHS", 0.0)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(whole, config_of())
    fake.stop_before = stop
    with pytest.raises(_StoppedError):
        run(stopped, config_of(**{"checkpoint.every_minutes": every_minutes}))
    in_epoch = stop % PER_EPOCH
    # A save inside an epoch waits until a dispatch of that epoch is through.
    expected = {"always": stop, "each epoch": stop - in_epoch, "rarely": 0}[saves]
    assert (latest_step(stopped) or 0) == expected
    fake.stop_before, fake.calls = None, []
    latest, best = run(stopped, config_of(**{"compute.steps_per_dispatch": 4}))
    assert (latest, best) == (12, [12, 8, 4])
    assert fake.calls[0][:2] == (expected, np.gcd(PER_EPOCH, expected))
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_finished_run_trains_no_more(tmp_path, fake):
    run(tmp_path, config_of())
    before = (tmp_path / "metrics.jsonl").read_bytes()
    fake.calls = []
    assert run(tmp_path, config_of()) == (12, [12, 8, 4])
    assert fake.calls == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_fewer_epochs_than_the_ensemble_has(tmp_path, fake):
    del fake
    assert run(tmp_path, config_of(**{"train.epochs": 2})) == (8, [8, 4])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, fake, bad):
    """Found although the next dispatch has begun, and before it could be saved."""
    fake.loss = lambda step: bad if step >= 5 else 1.0
    config = config_of(**{"checkpoint.every_minutes": 1e-9})
    with pytest.raises(
        train_module.TrainingDivergedError, match=rf"loss is {bad} at outer step 6 \(epoch 1\)"
    ):
        run(tmp_path, config)
    assert latest_step(tmp_path) == 5
    assert all(np.isfinite(row["loss"]) for row in read_metrics(tmp_path) if "loss" in row)


def test_epochs_that_took_seconds_are_saved_together(tmp_path, fake, monkeypatch):
    saved = []
    save = Checkpoints._write

    def recorded(self, epoch):
        saved.append(epoch.step)
        save(self, epoch)

    monkeypatch.setattr(Checkpoints, "_write", recorded)
    assert run(tmp_path, config_of(**{"train.epochs": 5})) == (20, [20, 16, 12])
    assert saved == [12, 16, 20]  # at the end, and only the best


def test_good_epochs_in_memory_are_saved_when_a_run_diverges(tmp_path, fake):
    fake.loss = lambda step: float("nan") if step >= 9 else 1.0
    with pytest.raises(train_module.TrainingDivergedError, match="at outer step 10 "):
        run(tmp_path, config_of())
    assert latest_step(tmp_path) == 8


def test_a_huge_inner_rate_really_diverges(tmp_path):
    config = small_config("maml", **{"inner.learning_rate": 1e38, "train.epochs": 1})
    with pytest.raises(
        train_module.TrainingDivergedError, match=r"(loss|grad_norm) is .* at outer step 1 "
    ):
        run(tmp_path, config)
    assert latest_step(tmp_path) is None


@pytest.mark.parametrize(
    ("limit", "start", "expected"),
    [(0, 0, 5), (7, 0, 5), (10, 0, 10), (4, 0, 4), (10, 15, 5), (10, 3, 1), (10, 20, 20 // 2)],
)
def test_dispatches_fall_on_the_grid_of_epochs_and_of_the_resumed_step(limit, start, expected):
    config = config_of(**{"train.steps_per_epoch": 20, "compute.steps_per_dispatch": limit})
    assert train_module.steps_per_dispatch(config, start) == expected


def learned(method, **fields):
    program = build(small_config(method, **{"train.inner_steps": 5, **fields}), patterns())
    state = jax.eval_shape(program.init_state)
    counts = {name: summary.count_parameters(tree) for name, tree in state.meta._asdict().items()}
    return counts, state


def test_extra_parameters_are_as_many_as_the_paper_says():
    """LSLR one per tensor per step; BNWB filters x layers x (steps - 1), for scale and for bias."""
    filters, steps = 4, 5
    maml, state = learned("maml")
    tensors = len(jax.tree.leaves(state.params))
    assert tensors == 2 * LAYERS + 2
    assert maml["inner"] == 0
    assert maml["norm"] == 2 * filters * LAYERS
    assert summary.count_parameters(state.batch_stats) == 2 * filters * LAYERS
    assert learned("maml+lslr")[0] == {**maml, "inner": tensors * steps}
    extra = 2 * filters * LAYERS * (steps - 1)
    bn, bn_state = learned("maml+bnrs+bnwb")
    assert bn == {**maml, "norm": maml["norm"] + extra}
    assert summary.count_parameters(bn_state.batch_stats) == 2 * filters * LAYERS * steps
    for method in ("maml+msl", "maml+da", "maml+ca"):
        assert learned(method)[0] == maml
    both = {**maml, "inner": tensors * steps, "norm": maml["norm"] + extra}
    assert learned("maml++")[0] == both
    assert learned("maml++", **{"model.filters": 8})[0]["norm"] == 2 * 8 * LAYERS * steps


class StopAt:
    """In the place of `Stopper`: says stop at the n-th question."""

    def __init__(self, question):
        self.left = question

    def reason(self):
        self.left -= 1
        return "asked to" if self.left == 0 else ""


@pytest.mark.parametrize("question", range(1, 12))
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(tmp_path, fake, question):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(whole, config_of())
    with pytest.raises(StoppedError, match=f"saved after outer step {question}"):
        run(stopped, config_of(), StopAt(question))
    assert latest_step(stopped) == question
    assert run(stopped, config_of()) == (12, [12, 8, 4])
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_meta_parameter_that_is_no_number_stops_the_run_and_spoils_nothing(tmp_path, fake):
    fake.bad_parameter = 6
    with pytest.raises(train_module.TrainingDivergedError, match=r"meta-parameter .* outer step 7"):
        run(tmp_path, config_of(**{"checkpoint.every_minutes": 1e-9}))
    assert latest_step(tmp_path) == 6
    assert read_metrics(tmp_path)[-1]["step"] <= 6


def test_clipping_bounds_what_adam_sees():
    gradient = {"a": np.array([3.0, -40.0], np.float32)}
    for fields, expected in (
        ({"train.clip_value": 10.0}, [3.0, -10.0]),
        ({"train.clip_norm": 1.0}, gradient["a"] / np.linalg.norm(gradient["a"])),
        ({}, gradient["a"]),
    ):
        optimizer = program_module._outer_optimizer(small_config(**fields), 1e-3)
        _, state = optimizer.update(gradient, optimizer.init(gradient))
        (first_moment,) = [
            x.mu["a"] for x in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(x)
        ]
        np.testing.assert_allclose(first_moment, 0.1 * np.asarray(expected), rtol=1e-5)


def _is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)
