"""Scores, ensembles, other numbers of classes, and independence of devices and chunks."""

import dataclasses

import jax
import numpy as np
import pytest

from mamlpp_jax.algorithms.evaluation import make_evaluator
from mamlpp_jax.algorithms.outer_loop import fixed_tasks
from mamlpp_jax.algorithms.task import adapt_to, make_task
from mamlpp_jax.distributed.mesh import make_mesh, replicate
from tests.helpers.small_learner import STEPS, WAY, make_episodes, make_learner, make_state

TASKS = 5


@pytest.fixture(scope="module")
def model():
    module, learner = make_learner()
    return learner, make_state(module, learner), make_episodes(tasks=8)


class FixedBlocks:
    """The `TaskSlices` of a ready batch of episodes, all at once."""

    def __init__(self, episodes):
        self.episodes = episodes

    def slices(self, task_indices, devices):
        assert len(task_indices) % devices == 0
        yield self.episodes, task_indices


def evaluate(model, statistics="batch", **options):
    return evaluate_modes(model, [statistics], **options)[statistics]


def evaluate_modes(model, modes, inner_steps=STEPS, **options):
    learner, state, episodes = model
    settings = {
        "tasks": TASKS,
        "tasks_per_chunk": 1,
        "mesh": make_mesh(8, devices=1),
        **options,
    }
    learner = dataclasses.replace(learner, inner_steps=inner_steps)
    run = make_evaluator(learner, fixed_tasks, modes, **settings)
    return run(state.meta, state.batch_stats, FixedBlocks(replicate(episodes, settings["mesh"])))


def test_logits_before_and_after_every_inner_step(model):
    learner, state, episodes = model
    predictions = evaluate(model)
    assert predictions.logits.shape == (TASKS, STEPS + 1, WAY, WAY)
    np.testing.assert_array_equal(predictions.labels, episodes.query.targets[:TASKS])
    task = jax.tree.map(lambda leaf: leaf[2], episodes)
    row = lambda i: jax.tree.map(lambda leaf: leaf[i], state.meta.norm)  # noqa: E731
    before, _ = learner.forward(state.meta.params, row(0), task.query.inputs)
    made = make_task(learner, state.meta, state.batch_stats, task)
    theta, _ = adapt_to(learner, made, order=2)
    after, _ = learner.forward(theta, row(STEPS - 1), task.query.inputs)
    np.testing.assert_allclose(predictions.logits[2, 0], before, atol=1e-5)
    np.testing.assert_allclose(predictions.logits[2, -1], after, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("devices", "chunk"), [(1, 4), (2, 1), (4, 2)])
def test_devices_and_chunks_change_nothing(model, devices, chunk):
    other = evaluate(model, mesh=make_mesh(8, devices=devices), tasks_per_chunk=chunk)
    expected = evaluate(model)
    np.testing.assert_allclose(other.logits, expected.logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(other.labels, expected.labels)


def test_the_three_statistics_differ(model):
    predictions = [evaluate(model, statistics=s).logits for s in ("batch", "support", "running")]
    assert np.abs(predictions[0] - predictions[1]).max() > 1e-3
    assert np.abs(predictions[0] - predictions[2]).max() > 1e-3


@pytest.mark.parametrize("every_step", [True, False])
def test_modes_together_are_those_alone(model, every_step):
    modes = ("support", "running", "batch")
    together = evaluate_modes(model, modes, every_step=every_step)
    assert tuple(together) == modes
    for mode, found in together.items():
        alone = evaluate(model, statistics=mode, every_step=every_step)
        np.testing.assert_allclose(found.logits, alone.logits, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(found.labels, alone.labels)


def test_more_inner_steps_than_trained_continue_the_same_trajectory(model):
    longer = evaluate(model, inner_steps=STEPS + 2)
    assert longer.logits.shape[1] == STEPS + 3
    np.testing.assert_allclose(
        longer.logits[:, : STEPS + 1], evaluate(model).logits, rtol=1e-3, atol=1e-4
    )


def test_the_last_step_alone_is_the_last_of_every_step(model):
    last = evaluate(model, every_step=False)
    assert last.logits.shape[1] == 1
    np.testing.assert_allclose(
        last.logits[:, 0], evaluate(model).logits[:, -1], rtol=1e-3, atol=1e-4
    )
