"""Scores, ensembles, other numbers of classes, and independence of devices and chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.algorithms.evaluation import Predictions, ensemble, make_evaluator, score, with_ways
from mamlpp_jax.algorithms.inner_loop import adapt, step_rows
from mamlpp_jax.algorithms.outer_loop import fixed_tasks
from mamlpp_jax.distributed.mesh import make_mesh
from mamlpp_jax.types import MetaParams
from tests.algorithms.outer_loop_test import STEPS, WAY, make_episodes, make_learner, make_state

TASKS = 5


@pytest.fixture(scope="module")
def model():
    module, learner = make_learner()
    return learner, make_state(module, learner), make_episodes(tasks=8)


def evaluate(model, **options):
    learner, state, episodes = model
    settings = {
        "statistics": "batch",
        "inner_steps": STEPS,
        "tasks": TASKS,
        "tasks_per_chunk": 1,
        "mesh": make_mesh(8, devices=1),
        **options,
    }
    run = make_evaluator(learner, fixed_tasks, **settings)
    return run(state.meta, state.batch_stats, episodes)


def test_logits_before_and_after_every_inner_step(model):
    learner, state, episodes = model
    answers = evaluate(model)
    assert answers.logits.shape == (TASKS, STEPS + 1, WAY, WAY)
    np.testing.assert_array_equal(answers.labels, episodes.query_labels[:TASKS])
    task = jax.tree.map(lambda leaf: leaf[2], episodes)
    rows = step_rows(state.norm, state.inner, state.batch_stats, STEPS)
    row = lambda i: jax.tree.map(lambda leaf: leaf[i], state.norm)  # noqa: E731
    before, _ = learner.forward(state.params, row(0), task.query_images)
    theta, _ = adapt(learner.forward, learner.inner_optimizer, state.params, rows, task)
    after, _ = learner.forward(theta, row(STEPS - 1), task.query_images)
    np.testing.assert_allclose(answers.logits[2, 0], before, atol=1e-5)
    np.testing.assert_allclose(answers.logits[2, -1], after, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("devices", "chunk"), [(1, 4), (2, 1), (4, 2)])
def test_devices_and_chunks_change_nothing(model, devices, chunk):
    other = evaluate(model, mesh=make_mesh(8, devices=devices), tasks_per_chunk=chunk)
    expected = evaluate(model)
    np.testing.assert_allclose(other.logits, expected.logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(other.labels, expected.labels)


def test_the_three_statistics_differ(model):
    answers = [evaluate(model, statistics=s).logits for s in ("batch", "support", "running")]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3
    assert np.abs(answers[0] - answers[2]).max() > 1e-3


def test_more_inner_steps_than_trained_continue_the_same_trajectory(model):
    longer = evaluate(model, inner_steps=STEPS + 2)
    assert longer.logits.shape[1] == STEPS + 3
    np.testing.assert_allclose(
        longer.logits[:, : STEPS + 1], evaluate(model).logits, rtol=1e-3, atol=1e-4
    )


def test_score_by_hand():
    logits = np.zeros((4, 2, 2, 3), np.float32)
    labels = np.array([[0, 1]] * 4)
    logits[:, 1, 0, 0] = 1.0  # the first query is right after the step
    logits[:2, 1, 1, 1] = 1.0  # the second one in half of the tasks
    logits[2:, 1, 1, 2] = 1.0
    scores = score(Predictions(logits, labels))
    per_task = np.array([1.0, 1.0, 0.5, 0.5])
    assert scores.accuracy == pytest.approx(0.75)
    # 3.1824: Student's t of three degrees of freedom
    assert scores.ci95 == pytest.approx(3.182446 * per_task.std(ddof=1) / 2)
    assert scores.accuracy_per_step == pytest.approx([0.5, 0.75])
    right, wrong = -np.log(np.e / (np.e + 2)), -np.log(1 / (np.e + 2))
    assert scores.loss == pytest.approx((6 * right + 2 * wrong) / 8, rel=1e-5)


def test_ensemble_averages_logits_not_votes():
    labels = np.zeros((2, 1), int)
    votes = [np.array([3.0, 0.0]), np.array([-1.0, 0.0]), np.array([-1.0, 0.0])]
    models = [Predictions(np.broadcast_to(v, (2, 1, 1, 2)), labels) for v in votes]
    assert score(ensemble(models)).accuracy == 1.0


def test_other_ways_take_the_first_columns_or_repeat_the_mean():
    head = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.array([0.0, 3.0, 6.0])}
    meta = MetaParams({"linear": head, "conv0": {"bias": jnp.ones(3)}}, {}, {})
    fewer = with_ways(meta, 2).params
    np.testing.assert_array_equal(fewer["linear"]["kernel"], head["kernel"][:, :2])
    np.testing.assert_array_equal(fewer["linear"]["bias"], [0, 3])
    more = with_ways(meta, 5).params
    np.testing.assert_array_equal(more["linear"]["kernel"][:, 3:], [[1, 1], [4, 4]])
    np.testing.assert_array_equal(more["linear"]["bias"], [0, 3, 6, 3, 3])
    np.testing.assert_array_equal(more["conv0"]["bias"], jnp.ones(3))
