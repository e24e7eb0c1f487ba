"""Convolution and max pooling in one, and moments of a convolution, against one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.ops import conv_pool
from mamlpp_jax.ops.conv import conv2d
from mamlpp_jax.ops.conv_pool import conv_max_pool_2x2, conv_moments
from mamlpp_jax.ops.pool import max_pool_2x2
from tests.helpers.derivatives import second_derivatives

CASES = [
    # size, kernel, padding, channels
    ((8, 8), 3, 1, 1),
    ((7, 10), 3, 1, 3),
    ((9, 6), 5, 2, 2),
    ((6, 7), 1, 0, 2),
]
# The impl only chooses the products (`conv_test`), and whether there are blocks.
IMPLS = ["direct", "patches"]


def make(size, kernel, channels, images=4):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(images, *size, channels)))
    w = jnp.asarray(rng.normal(size=(kernel, kernel, channels, 5)))
    return x, w, jnp.array([1, -1, 1, 1, -1])


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * max(1.0, float(jnp.abs(b).max())))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("size", "kernel", "padding", "channels"), CASES, ids=str)
def test_pooling_agrees_to_second_order(size, kernel, padding, channels, impl):
    with jax.enable_x64(True):
        x, w, sign = make(size, kernel, channels)

        def ours(x, w):
            return conv_max_pool_2x2(x, w, sign, padding=padding, impl=impl)

        def theirs(x, w):
            return max_pool_2x2(conv2d(x, w, padding=padding, impl=impl), sign)

        assert_close(second_derivatives(ours, x, w), second_derivatives(theirs, x, w))


@pytest.mark.parametrize(("size", "kernel", "padding", "channels"), CASES[1:3], ids=str)
def test_moments_agree_to_second_order(size, kernel, padding, channels):
    with jax.enable_x64(True):
        x, w, _ = make(size, kernel, channels)

        def theirs(x, w):
            y = conv2d(x, w, padding=padding, impl="patches")
            return y.mean((0, 1, 2)), y.var((0, 1, 2))

        ours = second_derivatives(lambda x, w: conv_moments(x, w, padding=padding), x, w)
        assert_close(ours, second_derivatives(theirs, x, w))


@pytest.mark.parametrize("images", [4, 7])
def test_blocks_change_nothing(monkeypatch, images):
    """Two images at a time, and one at a time where their number is odd."""
    with jax.enable_x64(True):
        x, w, sign = make((6, 8), 3, 2, images)

        def function(x, w):
            return conv_max_pool_2x2(x, w, sign, impl="direct"), conv_moments(x, w)

        whole = second_derivatives(function, x, w)
        monkeypatch.setattr(conv_pool, "_BLOCK_ELEMENTS", 2 * 6 * 8 * 5)
        blocks = jax.make_jaxpr(function)(x, w)
        assert "scan" in str(blocks)
        assert_close(second_derivatives(function, x, w), whole)


@pytest.mark.parametrize("impl", IMPLS)
def test_tasks_with_weights_of_their_own(impl):
    with jax.enable_x64(True):
        x, w, sign = make((6, 8), 3, 2)
        xs, ws = jnp.stack([x, 2 * x[::-1]]), jnp.stack([w, w - 1])

        def function(x, w):
            return conv_max_pool_2x2(x, w, sign, impl=impl), conv_moments(x, w)

        def all_gradients(x, w):
            return second_derivatives(function, x, w)

        together = jax.vmap(all_gradients)(xs, ws)
        for task in range(2):
            one = jax.tree.map(lambda leaf, task=task: leaf[task], together)
            assert_close(one, all_gradients(xs[task], ws[task]))


def test_a_constant_convolution_has_no_negative_variance():
    x = jnp.full((3, 7, 7, 1), 0.3, jnp.float32)
    w = jnp.linspace(1, 3, 50, dtype=jnp.float32).reshape(1, 1, 1, 50)
    _, var = conv_moments(x, w, padding=0)
    assert (var >= 0).all()
