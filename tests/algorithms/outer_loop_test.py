"""Meta-gradient and train step: finite differences and invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.algorithms.inner_optimizers import InnerOptimizer, lslr
from mamlpp_jax.algorithms.meta_loss import meta_loss
from mamlpp_jax.algorithms.outer_loop import fixed_tasks, make_train_step, scan_steps
from mamlpp_jax.distributed.mesh import make_mesh
from mamlpp_jax.types import MetaParams
from tests.helpers.small_learner import (
    OPTIMIZER,
    B,
    make_episodes,
    make_learner,
    make_state,
    one_step,
    plan,
)


@pytest.mark.parametrize("statistics", ["batch", "support"])
def test_meta_gradient_by_finite_differences(statistics):
    with jax.enable_x64(True):
        module, learner = make_learner(statistics=statistics)
        state = make_state(module, learner)
        episodes = make_episodes(tasks=1)

        @jax.jit
        def loss(meta):
            return meta_loss(learner, meta, state.batch_stats, episodes, plan([0.3, 0.7]))[0]

        gradient = jax.grad(loss)(state.meta)
        rng = np.random.default_rng(0)
        for group in MetaParams._fields:
            step = jax.tree.map(jnp.zeros_like, state.meta)
            direction = jax.tree.map(
                lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), getattr(state.meta, group)
            )
            step = step._replace(**{group: direction})
            h = 1e-6
            plus, minus = (
                loss(jax.tree.map(lambda a, d, sh=s * h: a + sh * d, state.meta, step))
                for s in (1, -1)
            )
            expected = sum(
                jnp.vdot(a, b)
                for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(step), strict=True)
            )
            np.testing.assert_allclose((plus - minus) / (2 * h), expected, rtol=1e-5, atol=1e-8)


def _rounding(dtype):
    return np.finfo(dtype).eps if np.issubdtype(dtype, np.floating) else 0.0


def assert_same(a, b, tolerance=1e-9):
    for x, y in zip(
        jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True
    ):
        # Accuracy is float32 even in 64-bit mode.
        np.testing.assert_allclose(x, y, rtol=0, atol=max(tolerance, _rounding(x.dtype)))


@pytest.fixture(scope="module")
def baseline():
    """One outer step on all tasks at once, in float64, where rounding cannot hide a difference."""
    with jax.enable_x64(True):
        module, learner = make_learner()
        state = make_state(module, learner)
        episodes = make_episodes()
        return learner, state, episodes, one_step(learner, state, episodes)


def test_permuting_the_tasks_changes_nothing(baseline):
    learner, state, episodes, expected = baseline
    with jax.enable_x64(True):
        shuffled = jax.tree.map(lambda leaf: leaf[jnp.array([2, 0, 3, 1])], episodes)
        assert_same(one_step(learner, state, shuffled), expected)


@pytest.mark.parametrize("chunk", [1, 2])
def test_the_chunk_size_changes_nothing(baseline, chunk):
    learner, state, episodes, expected = baseline
    with jax.enable_x64(True):
        assert_same(one_step(learner, state, episodes, chunk=chunk), expected)


@pytest.mark.parametrize(("devices", "chunk"), [(1, 4), (2, 1), (4, 1)])
def test_the_number_of_devices_changes_nothing(baseline, devices, chunk):
    learner, state, episodes, expected = baseline
    with jax.enable_x64(True):
        assert_same(one_step(learner, state, episodes, chunk=chunk, devices=devices), expected)


def test_several_steps_in_one_dispatch_are_the_steps_one_by_one(baseline):
    learner, state, episodes, _ = baseline
    with jax.enable_x64(True):
        step = make_train_step(learner, OPTIMIZER, fixed_tasks, tasks_per_step=B)
        last_step_loss = plan(order=1, multi_step=False)
        together, metrics = jax.jit(scan_steps(step, 2))(state, episodes, last_step_loss)
        single = jax.jit(step)
        one, first = single(state, episodes, last_step_loss)
        two, second = single(one, episodes, last_step_loss)
        assert_same(together, two)
        np.testing.assert_allclose(metrics.loss, [first.loss, second.loss])


def test_tasks_that_do_not_divide_are_refused():
    _, learner = make_learner()
    with pytest.raises(ValueError, match="tasks_per_chunk=3 does not divide 4"):
        make_train_step(learner, OPTIMIZER, fixed_tasks, tasks_per_step=4, tasks_per_chunk=3)
    with pytest.raises(ValueError, match="3 tasks do not divide over 2 devices"):
        make_train_step(
            learner, OPTIMIZER, fixed_tasks, tasks_per_step=3, mesh=make_mesh(2, devices=2)
        )


def test_training_lowers_the_loss():
    module, learner = make_learner()
    state, episodes = make_state(module, learner), make_episodes()
    step = make_train_step(learner, OPTIMIZER, fixed_tasks, tasks_per_step=B)
    _, metrics = jax.jit(scan_steps(step, 30))(state, episodes, plan())
    assert float(metrics.loss[-1]) < 0.5 * float(metrics.loss[0])
    assert np.all(np.isfinite(metrics.grad_norm))


def test_weak_types_of_an_inner_optimizer_do_not_compile_a_second_step():
    def init(params, num_steps):
        return jax.tree.map(lambda leaf: jnp.full(num_steps, 0.1), params)

    rates = InnerOptimizer(init, lslr(0.1).transform)
    module, learner = make_learner(inner_optimizer=rates)
    state = make_state(module, learner)
    step = jax.jit(make_train_step(learner, OPTIMIZER, fixed_tasks, tasks_per_step=B))
    for _ in range(3):
        state, _ = step(state, make_episodes(), plan([0.5, 0.5], order=1))
    assert step._cache_size() == 1
