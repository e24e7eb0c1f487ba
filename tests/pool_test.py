"""Max pooling: values, odd sizes, and which of tied elements gets the gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from mamlpp_jax.ops.pool import max_pool_2x2


def test_values_and_dropped_last_row():
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    y = np.asarray(max_pool_2x2(jnp.asarray(x)))
    assert y.shape == (2, 2, 3, 3)
    for i, j in np.ndindex(2, 3):
        window = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_array_equal(y[:, i, j], window.max((1, 2)))


def test_every_pattern_of_ties_goes_to_the_first_row_by_row():
    for bits in range(16):
        window = np.array([(bits >> k) & 1 for k in range(4)], np.float32)
        gradient = jax.grad(lambda x: max_pool_2x2(x).sum())(
            jnp.asarray(window.reshape(1, 2, 2, 1))
        )
        expected = np.zeros(4)
        expected[np.argmax(window)] = 1  # NumPy takes the first maximum
        np.testing.assert_array_equal(np.ravel(gradient), expected)
