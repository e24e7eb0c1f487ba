"""Contracts of every method: it resumes bit for bit, and computes the same on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.algorithms.evaluation import task_logits
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.config.methods import METHODS
from mamlpp_jax.config.parts import BACKBONES, Backbone
from mamlpp_jax.training import trainer
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.learner import example_images, init_run_state, make_learner
from mamlpp_jax.training.preemption import PreemptionHandler, StoppedError
from mamlpp_jax.types import Batch, Episode
from tests.helpers.small_learner import OneBlock
from tests.helpers.small_runs import small_config, small_experiment

COMBINED = (
    *("mamlpp+boil", "anil+lslr", "metasgd+msl+bnwb", "fomaml+boil+metasgd"),
    *("alfa+anil", "mamlpp+sharedhead", "sharedhead+metasgd", "reptile+bnwb+sharedhead"),
    *("mamlpp+metal", "mamlpp+protomaml", "protomaml+metacurvature", "cavia+lslr"),
)
ALL = (*(name for name in METHODS if name != "mamlpp"), *COMBINED)
# In `make test`; the others in `make test-all`.
QUICK = {"fomaml"}
EACH_METHOD = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ALL]
EPOCHS, PER_EPOCH = 3, 2
# Batch norm cancels the bias before it.
SILENT = [f"conv{i}/bias" for i in range(4)]


@pytest.fixture(autouse=True)
def _small_backbone(monkeypatch):
    monkeypatch.setitem(BACKBONES, "conv4", Backbone(OneBlock))


class _StopAfter(PreemptionHandler):
    """Says stop when it has been asked a number of times between dispatches."""

    def __init__(self, times):
        super().__init__()
        self.left = times

    def reason(self):
        self.left -= 1
        return "enough" if self.left < 0 else ""

    def check_signal(self):
        """Before the first dispatch there is nothing to stop."""


def train(folder, method, stop_after=None, **fields):
    """Trains one outer step at a time, from the latest checkpoint; returns the last state's arrays."""
    fields = {"train.epochs": EPOCHS, "compute.steps_per_dispatch": 1, **fields}
    # Prototypes are so good on these patterns that losses are 0.
    fields |= {"train.label_smoothing": 0.5} if "protomaml" in method else {}
    experiment = small_experiment(method, **fields)
    handler = None if stop_after is None else _StopAfter(stop_after)
    with Checkpoints(folder, experiment.config.evaluation.ensemble) as checkpoints:
        trainer.train(experiment, Workdir(folder), checkpoints, handler)
        state = checkpoints.restore(checkpoints.latest_step(), experiment.state_shapes())
    return jax.tree.map(np.asarray, state)


def assert_learned(meta, first, method):
    """No part of what the outer loop learns is without a gradient, but those that cannot matter."""
    silent = [*SILENT, *(["params/linear", "inner/"] if "protomaml" in method else [])]
    for path, after in jax.tree_util.tree_leaves_with_path(meta):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        before = first.pop(path)
        assert any(part in name for part in silent) or np.any(before != after), name


def losses(folder):
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]


@pytest.mark.parametrize("method", EACH_METHOD)
def test_every_method_resumes_bit_for_bit_and_agrees_over_devices(tmp_path, method):
    whole, stopped, shared = (tmp_path / name for name in ("whole", "stopped", "shared"))
    expected = train(whole, method)
    first = small_experiment(method).init_run_state().meta
    assert_learned(expected.meta, dict(jax.tree_util.tree_leaves_with_path(first)), method)
    for times in (2, 1):  # in the middle of an epoch, and again
        with pytest.raises(StoppedError):
            train(stopped, method, stop_after=times)
    resumed = train(stopped, method)
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert len(losses(whole)) == EPOCHS * PER_EPOCH

    train(shared, method, **{"compute.devices": 2})
    np.testing.assert_allclose(losses(shared), losses(whole), rtol=0, atol=1e-5)


# Each method's own part, by the beginning of its arrays' names.
OWN_PARTS = {
    **{name: "inner/" for name in ("metasgd", "alfa", "metacurvature", "maml+lslr")},
    **{name: "inner_loss/" for name in ("metal", "metal_inductive")},
    "cavia": "params/film",
    "sharedhead": "params/linear",
    "maml+bnwb": "norm/",
}


@pytest.mark.parametrize(
    ("method", "own"),
    [
        pytest.param(*part, marks=() if part[0] == "metacurvature" else pytest.mark.slow)
        for part in OWN_PARTS.items()
    ],
)
def test_what_a_method_learns_beside_the_weights_changes_test_predictions(tmp_path, method, own):
    """Its values have moved, and with those that they started from the same model predicts otherwise."""
    experiment = small_experiment(method, **{"inner.learning_rate": 0.5})
    with Checkpoints(tmp_path, experiment.config.evaluation.ensemble) as checkpoints:
        trainer.train(experiment, Workdir(tmp_path), checkpoints)
        state = checkpoints.restore(checkpoints.latest_step(), experiment.state_shapes())
    moved = []

    def replaced(path, trained, start):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.startswith(own):
            return trained
        moved.append(np.any(np.asarray(trained) != start))
        return start

    first = experiment.init_run_state().meta
    without = jax.tree_util.tree_map_with_path(replaced, state.meta, first)
    assert any(moved)
    learner, episodes = make_learner(experiment.config), experiment.tasks["test"].episodes(4)

    def logits(meta):
        def one(episode):
            return task_logits(learner, meta, state.batch_stats, episode, every_step=False)

        return jax.jit(jax.vmap(one))(episodes)

    assert np.abs(logits(state.meta) - logits(without)).max() > 1e-4


@pytest.mark.parametrize(
    "method", ["sharedhead", pytest.param("mamlpp+sharedhead", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("ways", [3, 5])
def test_with_a_shared_head_permuting_the_classes_permutes_the_logits(method, ways):
    """Also for other ways than trained, which a head that classes do not share cannot do."""
    with jax.enable_x64(True):
        config = small_config(method)
        state = init_run_state(config, example_images((8, 8, 1)))
        meta, stats = jax.tree.map(lambda leaf: leaf.astype(float), state[1:3])
        config.task.way = ways
        learner = make_learner(config)
        rng = np.random.default_rng(0)
        images = jnp.asarray(rng.normal(size=(ways, 8, 8, 1)))

        def logits(labels):
            episode = Episode(Batch(images, labels), Batch(images + 0.1, labels))
            return task_logits(learner, meta, stats, episode, every_step=True)[0]

        labels, permuted = jnp.arange(ways), jnp.asarray(rng.permutation(ways))
        found, expected = jax.jit(logits)(permuted), jax.jit(logits)(labels)
        np.testing.assert_allclose(found[..., permuted], expected, rtol=0, atol=1e-9)
        assert np.ptp(expected[-1]) > 0.1


def test_running_statistics_with_a_decay_of_one_stay_those_of_the_start(tmp_path):
    kept = train(tmp_path / "kept", "maml", **{"norm.running_decay": 1.0}).batch_stats
    moved = train(tmp_path / "moved", "maml").batch_stats
    start = small_experiment("maml").init_run_state().batch_stats
    jax.tree.map(np.testing.assert_array_equal, kept, start)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (moved, start)), strict=True))
