"""How running statistics follow the passes of an outer step."""

import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.models.moments import fold_moments


def layer(values):
    """Moments of one nested layer with one channel."""
    mean = jnp.asarray(values)[..., None]
    count = jnp.full(mean.shape[:-1], 10.0)
    return {"block0": {"norm1": {"mean": mean, "var": jnp.ones_like(mean), "count": count}}}


def statistics(values):
    mean = jnp.asarray(values)[..., None]
    return {"block0": {"norm1": {"mean": mean, "var": jnp.ones_like(mean)}}}


def test_a_long_inner_loop_keeps_every_entry():
    moments = layer(np.arange(50.0))
    new = fold_moments(statistics(np.zeros(50)), moments, moments, per_step=True)
    expected = np.arange(50) * (1 - 0.81)
    np.testing.assert_allclose(new["block0"]["norm1"]["mean"][:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("per_step", [True, False])
def test_without_the_multi_step_loss_only_the_last_step_has_a_query_pass(per_step):
    support, query = layer([1.0, 2.0]), layer([5.0])
    start = statistics([0.0, 0.0] if per_step else 0.0)
    new = fold_moments(start, support, query, per_step=per_step)["block0"]["norm1"]["mean"]
    last = 0.9 * (0.1 * 2) + 0.1 * 5
    if per_step:
        np.testing.assert_allclose(new[:, 0], [0.1, last], rtol=1e-6)
    else:
        np.testing.assert_allclose(new, [0.9 * (0.9 * 0.1 + 0.2) + 0.5], rtol=1e-6)


def test_a_backbone_without_batch_norm_has_nothing_to_update():
    assert fold_moments({}, {}, {}, per_step=True) == {}


def test_a_decay_of_one_leaves_the_running_statistics_as_they_are():
    start = statistics([3.0, 4.0])
    support, query = layer([1.0, 2.0]), layer([5.0])
    new = fold_moments(start, support, query, per_step=True, momentum=1.0)
    np.testing.assert_array_equal(new["block0"]["norm1"]["mean"], start["block0"]["norm1"]["mean"])
