"""The convolution family against `lax.conv`, in value and in first and second derivatives."""

import itertools
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.distributed.mesh import AXIS, make_mesh
from mamlpp_jax.ops import conv_impls
from mamlpp_jax.ops.conv import conv2d
from mamlpp_jax.ops.conv_impls import IMPLS
from tests.helpers.derivatives import second_derivatives

CASES = [
    # size, kernel, stride, padding, channels, filters
    ((28, 28), (3, 3), 1, 1, 1, 8),
    ((7, 5), (3, 3), 2, 1, 2, 3),
    ((8, 6), (3, 3), 2, 1, 3, 2),
    ((6, 7), (5, 3), 1, 2, 2, 2),
    ((9, 9), (1, 1), 3, 0, 4, 3),
    ((6, 5), (1, 1), 1, 0, 3, 4),
    ((5, 6), (2, 3), 2, 0, 1, 1),
    ((4, 4), (3, 3), 1, 3, 2, 2),
    ((5, 6), (3, 3), 1, 1, 16, 17),
    ((6, 5), (3, 3), 2, 1, 17, 16),
]
# `auto` is one of these, and all are compared with `xla`.
OURS = sorted(IMPLS)


def make(case, seed=0):
    size, kernel, stride, padding, channels, filters = case
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(2, *size, channels)))
    w = jnp.asarray(rng.normal(size=(*kernel, channels, filters)))
    return x, w, {"stride": stride, "padding": padding}


@cache
def theirs(case):
    x, w, options = make(case)
    return second_derivatives(partial(conv2d, impl="xla", **options), x, w)


@pytest.mark.parametrize("impl", OURS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_lax_conv_to_second_order(case, impl):
    with jax.enable_x64(True):
        x, w, options = make(case)
        ours = second_derivatives(partial(conv2d, impl=impl, **options), x, w)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs(case)), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * max(1.0, float(jnp.abs(b).max())))


@pytest.mark.slow
@pytest.mark.parametrize("impl", OURS)
@pytest.mark.parametrize(
    ("size", "stride", "channels"), list(itertools.product((5, 14, 21), (1, 2), (1, 3, 64)))
)
def test_agrees_over_a_grid_of_shapes(size, stride, channels, impl):
    case = ((size, size + 1), (3, 3), stride, 1, channels, 4)
    test_agrees_with_lax_conv_to_second_order(case, impl)


@pytest.mark.parametrize("few_channels", [1, 16])
@pytest.mark.parametrize("block_elements", [1, 10**6])
@pytest.mark.parametrize("case", CASES[1:4], ids=str)
def test_kernel_gradients_of_large_inputs_agree(monkeypatch, case, block_elements, few_channels):
    """What large images use, image by image or all at once, on small ones."""
    monkeypatch.setattr(conv_impls, "_FEW_POSITIONS", 0)
    monkeypatch.setattr(conv_impls, "_FEW_CHANNELS", few_channels)
    monkeypatch.setattr(conv_impls, "_BLOCK_ELEMENTS", block_elements)
    monkeypatch.setattr(conv_impls, "_BLOCK_ELEMENTS_OF_FEW_CHANNELS", block_elements)
    test_agrees_with_lax_conv_to_second_order(case, "direct")


def test_against_loops():
    with jax.enable_x64(True):
        x, w, options = make(((5, 4), (3, 3), 2, 1, 2, 3))
        y = np.asarray(conv2d(x, w, impl="patches", **options))
        padded = np.pad(np.asarray(x), [(0, 0), (1, 1), (1, 1), (0, 0)])
        for n, i, j, f in np.ndindex(y.shape):
            window = padded[n, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            np.testing.assert_allclose(y[n, i, j, f], np.sum(window * np.asarray(w)[..., f]))


BATCHED = [axes for axes in itertools.product((0, None), repeat=3) if any(a == 0 for a in axes)]


@pytest.mark.parametrize("impl", OURS)
@pytest.mark.parametrize(
    ("axes", "stride"), [*((axes, 1) for axes in BATCHED), ((0, 0, 0), 2)], ids=str
)
def test_under_vmap(axes, stride, impl):
    """Images, kernels and cotangents of each task, or some of them the same for all."""

    def everything(x, w, dy, impl):
        y, pull = jax.vjp(partial(conv2d, impl=impl, stride=stride), x, w)
        return y, *pull(dy)

    out = 6 // stride
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        shapes = ((2, 6, 6, 16), (3, 3, 16, 16), (2, out, out, 16))
        tasks = [[jnp.asarray(rng.normal(size=shape)) for shape in shapes] for _ in range(3)]
        given = [
            jnp.stack(each) if axis == 0 else each[0]
            for each, axis in zip(zip(*tasks, strict=True), axes, strict=True)
        ]
        together = jax.vmap(partial(everything, impl=impl), axes)(*given)
        for i in range(3):
            alone = [a[i] if axis == 0 else a for a, axis in zip(given, axes, strict=True)]
            for a, b in zip(together, everything(*alone, "xla"), strict=True):
                np.testing.assert_allclose(a[i], b, atol=1e-12)


def test_direct_leaves_batched_kernels_to_matrix_products():
    x, w = jnp.zeros((3, 2, 6, 6, 2)), jnp.zeros((3, 3, 3, 2, 4))
    batched = jax.make_jaxpr(jax.vmap(partial(conv2d, impl="direct")))(x, w)
    assert "conv_general_dilated" not in str(batched)
    assert "conv_general_dilated" in str(jax.make_jaxpr(partial(conv2d, impl="direct"))(x[0], w[0]))


def meta_gradient(x, w, impl, **options):
    """Second derivatives of a convolution, with a kernel per task."""

    def gradient(x, w):
        return jax.grad(lambda w: jnp.sum(conv2d(x, w, impl=impl, **options) ** 2))(w)

    return jax.grad(lambda x, w: jnp.sum(jax.vmap(gradient)(x, w) ** 2), (0, 1))(x, w)


TWO_TASKS = (2, 1, 6, 6, 16), (2, 3, 3, 16, 16)


def sharded(function):
    """Gives each of two devices its own task and kernel, as in training."""
    mesh, spec = make_mesh(2, 2), jax.P(AXIS)
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec))


def two_tasks(shapes):
    rng = np.random.default_rng(2)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def check_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("impl", OURS)
def test_tasks_may_be_sharded(impl):
    x, w = two_tasks(TWO_TASKS)
    check_close(sharded(partial(meta_gradient, impl=impl))(x, w), meta_gradient(x, w, "xla"))


@pytest.mark.parametrize("few_channels", [1, 17])
def test_blocks_of_images_may_be_sharded(monkeypatch, few_channels):
    monkeypatch.setattr(conv_impls, "_FEW_POSITIONS", 0)
    monkeypatch.setattr(conv_impls, "_FEW_CHANNELS", few_channels)
    monkeypatch.setattr(conv_impls, "_BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(conv_impls, "_BLOCK_ELEMENTS_OF_FEW_CHANNELS", 1)
    x, w = two_tasks(((2, 3, 6, 6, 16), (2, 3, 3, 16, 16)))

    def unbatched(x, w):
        gradients = jax.grad(lambda *xw: jnp.sum(conv2d(*xw, impl="direct") ** 2), (0, 1))
        return [a[None] for a in gradients(x[0], w[0])]

    def expected(x, w):
        return jax.grad(lambda *xw: jnp.sum(conv2d(*xw, impl="xla") ** 2), (0, 1))(x, w)

    check_close(sharded(unbatched)(x, w), jax.vmap(expected)(x, w))


def second_order_program(impl):
    x, w = (jnp.zeros(shape) for shape in TWO_TASKS)
    return str(jax.make_jaxpr(partial(meta_gradient, impl=impl))(x, w))


def test_grouped_has_one_convolution_for_all_tasks_in_every_derivative():
    text = second_order_program("grouped")
    assert "dot_general" not in text
    counts = r"batch_group_count=(\d+).*?feature_group_count=(\d+)"
    assert set(re.findall(counts, text, re.DOTALL)) == {("1", "2"), ("2", "1")}


@pytest.mark.parametrize("impl", [*OURS, "xla"])
def test_bfloat16_operands_change_little_and_no_dtype(impl):
    x, w, options = make(CASES[2])
    x, w = x.astype(jnp.float32), w.astype(jnp.float32)

    def loss(x, w, operands):
        return jnp.sum(conv2d(x, w, impl=impl, compute_dtype=operands, **options) ** 2)

    exact = jax.value_and_grad(loss, (0, 1))(x, w, "")
    rounded = jax.value_and_grad(loss, (0, 1))(x, w, "bfloat16")
    for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.float32
        assert not np.array_equal(a, b)
        np.testing.assert_allclose(a, b, atol=0.02 * float(jnp.abs(b).max()))


def test_sums_of_bfloat16_products_are_float32():
    """4,608 exact products, whose sum bfloat16 cannot hold."""
    x, w = jnp.full((1, 3, 3, 512), 1.0), jnp.full((3, 3, 512, 1), 1 + 2**-7)
    y = conv2d(x, w, padding=0, compute_dtype="bfloat16")
    assert float(y[0, 0, 0, 0]) == 9 * 512 * (1 + 2**-7)


def test_third_derivative():
    with jax.enable_x64(True):
        x, w, options = make(((5, 5), (3, 3), 1, 1, 1, 2))
        results = []
        for impl in (*OURS, "xla"):

            def f(s, impl=impl):
                return jnp.sum(jnp.sin(conv2d(s * x, s * w, impl=impl, **options)))

            results.append(jax.grad(jax.grad(jax.grad(f)))(jnp.asarray(0.3)))
        np.testing.assert_allclose(results[:-1], results[-1], rtol=1e-9)


def test_unknown_kind_lists_the_known():
    x, w, _ = make(CASES[0])
    with pytest.raises(ValueError, match=r"fft.*auto, xla, patches"):
        conv2d(x, w, impl="fft")
