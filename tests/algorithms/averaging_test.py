"""The average of the meta-parameters against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mamlpp_jax.algorithms.averaging import average_weights, evaluated_meta
from mamlpp_jax.types import MetaParams, MetaState

START = MetaParams({"w": jnp.array([1.0, -2.0])}, {}, {})


@pytest.mark.parametrize(("decay", "steps"), [(0.5, 4), (0.9, 120)])
def test_the_average_follows_the_weights_and_leaves_the_updates_alone(decay, steps):
    plain = optax.sgd(0.1)
    averaged = optax.chain(plain, average_weights(decay))
    meta, opt_state = START, averaged.init(START)
    weights = expected = np.array([1.0, -2.0])
    for t in range(1, steps + 1):
        gradient = jax.tree.map(lambda w: jnp.sin(w + t), meta)  # noqa: B023
        updates, opt_state = averaged.update(gradient, opt_state, meta)
        meta = optax.apply_updates(meta, updates)
        weights = weights - 0.1 * np.sin(weights + t)
        kept = min(decay, t / (t + 9))
        expected = kept * expected + (1 - kept) * weights
    np.testing.assert_allclose(meta.params["w"], weights, rtol=1e-5)
    state = MetaState(jnp.int32(steps), meta, {}, opt_state)
    np.testing.assert_allclose(evaluated_meta(state).params["w"], expected, rtol=1e-5)


def test_without_an_average_the_weights_themselves_are_tested():
    state = MetaState(jnp.int32(0), START, {}, optax.adam(1e-3).init(START))
    assert evaluated_meta(state) is START
