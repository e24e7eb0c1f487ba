"""The sinusoid program at a small size: MAML learns from 10 points what a joint model cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sinusoid


@pytest.mark.slow
def test_maml_is_below_the_joint_model_and_both_are_drawn():
    tests = sinusoid.sample_tasks(jax.random.key(2), 0, jnp.arange(200))
    models = {
        "MAML": (0.01, sinusoid.train(0.01, 4000)),
        "joint": (0.01, sinusoid.train(0.0, 4000)),
    }
    maml, joint = (np.asarray(sinusoid.errors(*model, tests)) for model in models.values())
    assert maml.shape == (11,)
    assert maml[-1] < 0.8 * joint[-1]
    assert maml[-1] < maml[1] < maml[0]
    left, right = sinusoid.draw(models, tests).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), maml, rtol=1e-5)
    assert len(right.lines) == 5


def test_a_task_is_a_sinusoid_of_the_papers_ranges():
    tasks = sinusoid.sample_tasks(jax.random.key(0), 3, jnp.arange(200))
    assert tasks.support.inputs.shape == tasks.query.targets.shape == (200, sinusoid.POINTS, 1)
    assert float(jnp.abs(tasks.support.targets).max()) <= 5.0
    assert float(jnp.abs(tasks.query.inputs).max()) <= 5.0
    again = sinusoid.sample_tasks(jax.random.key(0), 3, jnp.array([7]))
    np.testing.assert_allclose(again.query.targets[0], tasks.query.targets[7], rtol=1e-5)
    x = np.concatenate([tasks.support.inputs, tasks.query.inputs], 1)[..., 0]
    y = np.concatenate([tasks.support.targets, tasks.query.targets], 1)[..., 0]
    # Sinusoids of frequency 1 are the span of sin and cos.
    for one_x, one_y in zip(x, y, strict=True):
        basis = np.stack([np.sin(one_x), np.cos(one_x)], 1)
        (a, b), residual, *_ = np.linalg.lstsq(basis, one_y, rcond=None)
        assert residual < 1e-8
        assert 0.1 - 1e-4 <= np.hypot(a, b) <= 5.0 + 1e-4
        assert b <= 1e-4  # a phase from 0 to pi
