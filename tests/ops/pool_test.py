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


def test_a_negative_sign_takes_the_smallest_of_its_channel():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 6, 3)))
    sign = jnp.array([1, -1, -1])
    y = max_pool_2x2(x, sign)
    np.testing.assert_array_equal(y, max_pool_2x2(x * sign) * sign)


def pool_numpy(x):
    """Pooling by a loop, and the positions it took."""
    n, h, w, f = x.shape
    y, taken = np.zeros((n, h // 2, w // 2, f)), []
    for a, i, j, b in np.ndindex(y.shape):
        window = x[a, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, b]
        row, column = np.unravel_index(np.argmax(window), window.shape)
        y[a, i, j, b] = window[row, column]
        taken.append((a, 2 * i + row, 2 * j + column, b))
    return y, taken


def test_gradient_and_its_gradient_against_loops():
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        x, direction = rng.normal(size=(2, 2, 5, 7, 3))[:, :1]
        y, taken = pool_numpy(x)

        def gradient(x):
            return jax.grad(lambda x: jnp.sum(max_pool_2x2(x) ** 3))(x)

        first, second = np.zeros_like(x), np.zeros_like(x)
        for value, place in zip(y.ravel(), taken, strict=True):
            first[place] = 3 * value**2
            second[place] = 6 * value * direction[place]
        np.testing.assert_allclose(gradient(jnp.asarray(x)), first)
        product = jax.grad(lambda x: jnp.vdot(gradient(x), direction))(jnp.asarray(x))
        np.testing.assert_allclose(product, second)
