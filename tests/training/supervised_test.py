"""The supervised stage: its gradient, its validation, its augmentation, and that it is a run like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mamlpp_jax as maml
from mamlpp_jax.algorithms.supervised import centroid_logits, supervised_gradient
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.config import apply_method, validate
from mamlpp_jax.data.batches import augmented
from mamlpp_jax.errors import ConfigError, ModelError
from mamlpp_jax.training.experiment import build_experiment
from mamlpp_jax.types import StepPlan
from tests.helpers.small_runs import patterns, small_config


def config(**fields):
    fields = {
        "train.images_per_task": 6,
        "data.augment": True,
        "train.steps_per_epoch": 4,
        "checkpoint.every_minutes": 1e-9,
        "compute.steps_per_dispatch": 1,
        **fields,
    }
    made = small_config(**fields)
    apply_method(made, "supervised")
    return made


@pytest.fixture(scope="module")
def experiment():
    return build_experiment(config(), patterns())


@pytest.fixture(scope="module")
def state(experiment):
    return experiment.init_run_state()


@pytest.mark.slow
def test_the_gradient_is_that_of_the_mean_loss_of_the_batches(experiment, state):
    stream, learner = experiment.tasks["train"], experiment.learner
    source = stream.window(range(1), range(2))
    episodes = stream.sample_tasks(source, jnp.int32(0), jnp.arange(2))
    assert episodes.query.inputs.shape == (2, 6, 16, 16, 1)

    def loss(params):
        outputs = [
            learner.forward(params, state.meta.norm, images)[0] for images in episodes.query.inputs
        ]
        log_p = jax.nn.log_softmax(jnp.stack(outputs))
        labels = episodes.query.targets[..., None]
        return -jnp.take_along_axis(log_p, labels, -1).mean()

    made = supervised_gradient(learner, state.meta, state.batch_stats, episodes, StepPlan(order=1))
    value, gradient = jax.value_and_grad(loss)(state.meta.params)
    np.testing.assert_allclose(made.loss, value, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), made.gradient.params, gradient
    )
    assert all(leaf.shape[0] == 1 for leaf in jax.tree.leaves(made.support_moments))


def test_validation_takes_the_nearest_centroid_and_each_query_alone(experiment, state):
    episode = jax.tree.map(lambda leaf: leaf[0], experiment.tasks["val"].episodes(1))
    body = experiment.learner.body_and_head.body
    support, query = (
        np.asarray(body(state.meta.params, state.meta.norm, b.inputs, state.batch_stats)[0])
        for b in (episode.support, episode.query)
    )
    centroids = np.stack([support[episode.support.targets == label].mean(0) for label in range(3)])
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (centroids, query)]
    logits = centroid_logits(
        experiment.learner, state.meta, state.batch_stats, episode, ["running"], every_step=False
    )
    np.testing.assert_allclose(logits[0, 0], 10 * unit[1] @ unit[0].T, rtol=1e-4)


def test_augmentation_is_a_function_of_key_step_and_index(experiment):
    stream = experiment.tasks["train"]
    source = stream.window(range(1), range(4))
    sample = jax.jit(stream.sample_tasks)
    four = sample(source, jnp.int32(3), jnp.arange(4))
    one = sample(source, jnp.int32(3), jnp.arange(2, 3))
    np.testing.assert_allclose(four.query.inputs[2], one.query.inputs[0], atol=1e-6)
    plain = build_experiment(config(**{"data.augment": False}), patterns()).tasks["train"]
    same = plain.sample_tasks(source, jnp.int32(3), jnp.arange(2, 3))
    np.testing.assert_array_equal(same.query.targets, one.query.targets)
    assert not np.allclose(same.query.inputs, one.query.inputs)
    other = sample(source, jnp.int32(4), jnp.arange(2, 3))
    assert not np.array_equal(other.query.inputs, one.query.inputs)
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (84, 84, 3)), jnp.uint8)
    changed = augmented(jax.random.key(0), image)
    assert changed.shape == image.shape
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 255
    np.testing.assert_array_equal(changed, augmented(jax.random.key(0), image))
    assert not np.array_equal(changed, augmented(jax.random.key(1), image))


def test_a_stage_is_resumed_bit_for_bit_and_a_run_starts_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "load_dataset", lambda data: patterns())

    class Stop(maml.Callback):
        def on_steps(self, records):
            if records[-1]["step"] == 6:
                raise InterruptedError

    whole = maml.train(config(), tmp_path / "whole")
    with pytest.raises(InterruptedError):
        maml.train(config(), tmp_path / "cut", [Stop()])
    resumed = maml.train(config(), tmp_path / "cut")
    for ours, theirs in zip(resumed.members, whole.members, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours.meta, theirs.meta)
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert metrics[0] == metrics[1]
    assert whole.evaluations == []
    assert Workdir(tmp_path / "whole").results()["finished"]
    assert whole.members[0].meta.params["linear"]["kernel"].shape[-1] == 8
    with pytest.raises(ModelError, match="supervised stage"):
        maml.FewShotClassifier.from_pretrained(tmp_path / "whole")
    fields = {"train.epochs": 1, "train.start_from": str(tmp_path / "whole")}
    started = maml.train(small_config("maml+sharedhead", **fields))
    assert started.members[0].meta.params["linear"]["kernel"].shape[-1] == 1


def test_the_mode_chooses_the_method_and_needs_the_number_of_classes():
    plain = small_config()
    chosen = commands.resolve_config("pretrain", plain, None, {})
    assert (chosen.method, plain.method) == ("supervised", "maml++")
    without = small_config(**{"data.train_classes": 0})
    with pytest.raises(ConfigError, match=r"data.train_classes is 0, but 'supervised'"):
        commands.resolve_config("pretrain", without, None, {})
    with pytest.raises(ConfigError, match=r"data.augment is True, which 'maml'"):
        validate(small_config(**{"data.augment": True}))
