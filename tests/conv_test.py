"""The convolution family against `lax.conv`, in value and in first and second derivatives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.ops.conv import conv2d

CASES = [
    # size, kernel, stride, padding, channels, filters
    ((28, 28), (3, 3), 1, 1, 1, 8),
    ((7, 5), (3, 3), 2, 1, 2, 3),
    ((8, 6), (3, 3), 2, 1, 3, 2),
    ((6, 7), (5, 3), 1, 2, 2, 2),
    ((9, 9), (1, 1), 3, 0, 4, 3),
    ((5, 6), (2, 3), 2, 0, 1, 1),
    ((4, 4), (3, 3), 1, 3, 2, 2),
]


def make(case, seed=0):
    size, kernel, stride, padding, channels, filters = case
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(2, *size, channels)))
    w = jnp.asarray(rng.normal(size=(*kernel, channels, filters)))
    return x, w, {"stride": stride, "padding": padding}


def second_derivatives(x, w, options, kind):
    """A scalar that goes through every gradient of the convolution, differentiated once more."""

    def inner(x, w):
        return jnp.sum(jnp.sin(conv2d(x, w, kind=kind, **options)))

    def outer(x, w):
        dx, dw = jax.grad(inner, (0, 1))(x, w)
        return jnp.sum(jnp.cos(dx)) + jnp.sum(dw**3)

    return inner(x, w), jax.grad(inner, (0, 1))(x, w), jax.grad(outer, (0, 1))(x, w)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_patches_agree_with_lax_conv_to_second_order(case):
    with jax.enable_x64(True):
        x, w, options = make(case)
        ours = second_derivatives(x, w, options, "patches")
        theirs = second_derivatives(x, w, options, "xla")
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * max(1.0, float(jnp.abs(b).max())))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "stride", "channels"), list(itertools.product((5, 14, 21), (1, 2), (1, 3, 64)))
)
def test_patches_agree_over_a_grid_of_shapes(size, stride, channels):
    case = ((size, size + 1), (3, 3), stride, 1, channels, 4)
    test_patches_agree_with_lax_conv_to_second_order(case)


def test_against_loops():
    with jax.enable_x64(True):
        x, w, options = make(((5, 4), (3, 3), 2, 1, 2, 3))
        y = np.asarray(conv2d(x, w, kind="patches", **options))
        padded = np.pad(np.asarray(x), [(0, 0), (1, 1), (1, 1), (0, 0)])
        for n, i, j, f in np.ndindex(y.shape):
            window = padded[n, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            np.testing.assert_allclose(y[n, i, j, f], np.sum(window * np.asarray(w)[..., f]))


def test_kernels_per_task_under_vmap():
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        x = jnp.asarray(rng.normal(size=(3, 2, 6, 6, 2)))
        w = jnp.asarray(rng.normal(size=(3, 3, 3, 2, 4)))
        together = jax.vmap(lambda x, w: conv2d(x, w, kind="patches"))(x, w)
        for i in range(3):
            np.testing.assert_allclose(together[i], conv2d(x[i], w[i], kind="xla"), atol=1e-12)


def test_third_derivative():
    with jax.enable_x64(True):
        x, w, options = make(((5, 5), (3, 3), 1, 1, 1, 2))
        results = []
        for kind in ("patches", "xla"):

            def f(s, kind=kind):
                return jnp.sum(jnp.sin(conv2d(s * x, s * w, kind=kind, **options)))

            results.append(jax.grad(jax.grad(jax.grad(f)))(jnp.asarray(0.3)))
        np.testing.assert_allclose(results[0], results[1], rtol=1e-9)


def test_unknown_kind_lists_the_known():
    x, w, _ = make(CASES[0])
    with pytest.raises(ValueError, match=r"fft.*auto, xla, patches"):
        conv2d(x, w, kind="fft")
