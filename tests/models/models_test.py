"""The backbone and per-step batch norm against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.models import Conv4, init_model, make_forward
from mamlpp_jax.models.layers import PerStepBatchNorm
from mamlpp_jax.models.moments import update_running


def conv_numpy(x, kernel, bias, stride):
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    high, wide = (x.shape[1] - 1) // stride + 1, (x.shape[2] - 1) // stride + 1
    y = np.zeros((len(x), high, wide, kernel.shape[-1]))
    for i, j in np.ndindex(high, wide):
        window = padded[:, stride * i : stride * i + 3, stride * j : stride * j + 3]
        y[:, i, j] = np.einsum("nabc,abcf->nf", window, kernel)
    return y + bias


def forward_numpy(params, norm, images, max_pool, statistics=None):
    """The layer order of the paper, written down literally."""
    x = images
    for block in range(4):
        layer = params[f"conv{block}"]
        x = conv_numpy(x, layer["kernel"], layer["bias"], 1 if max_pool else 2)
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        if statistics is not None:
            mean, var = statistics[f"norm{block}"]["mean"], statistics[f"norm{block}"]["var"]
        row = norm[f"norm{block}"]
        x = (x - mean) / np.sqrt(var + 1e-5) * row["scale"] + row["bias"]
        x = np.where(x > 0, x, 0.01 * x)
        if max_pool:
            n, h, w, f = x.shape
            x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, f).max((2, 4))
    x = x.reshape(len(x), -1) if max_pool else x.mean((1, 2))
    return x @ params["linear"]["kernel"] + params["linear"]["bias"]


def random_tree(tree, seed):
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return structure.unflatten([leaf + 0.3 * rng.normal(size=leaf.shape) for leaf in leaves])


CASES = [(True, False), (False, True), (False, False)]


@pytest.mark.parametrize(
    ("max_pool", "given"),
    [(True, True), *(pytest.param(*c, marks=pytest.mark.slow) for c in CASES)],
)
def test_forward_is_the_papers_layer_order(max_pool, given):
    with jax.enable_x64(True):
        module = Conv4(ways=3, filters=4, max_pool=max_pool)
        variables = init_model(module, jax.random.key(0), jnp.zeros((1, 20, 18, 2)))
        params, norm, stats = (random_tree(tree, i) for i, tree in enumerate(variables))
        stats = jax.tree.map(np.abs, stats)
        for row in norm.values():  # a negative scale turns the largest into the smallest
            row["scale"] = row["scale"] * np.array([1, -1, 1, -1])
        images = np.random.default_rng(3).normal(size=(5, 20, 18, 2))
        statistics = stats if given else None
        forward = jax.jit(make_forward(module))  # one by one its operations take longer to compile
        logits, _ = forward(params, norm, jnp.asarray(images), statistics)
        expected = forward_numpy(params, norm, images, max_pool, statistics)
        np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


def test_initialisation_is_xavier_uniform_with_zero_biases():
    variables = init_model(Conv4(ways=5, filters=64), jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    kernel = np.asarray(variables.params["conv1"]["kernel"])
    bound = np.sqrt(6 / (9 * 64 + 9 * 64))
    assert np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert not np.any(variables.params["conv1"]["bias"])
    assert not np.any(variables.params["linear"]["bias"])
    assert np.all(variables.norm["norm0"]["scale"] == 1)


def apply_norm(x, offset, **statistics):
    variables = {"norm": {"scale": jnp.full(2, 2.0), "bias": jnp.full(2, 0.5)}}
    if statistics:
        variables["batch_stats"] = statistics
    y, left = PerStepBatchNorm().apply(variables, x, offset, mutable=["moments"])
    return np.asarray(y), left["moments"]


def test_batch_norm_by_its_own_moments_ignores_the_offset_but_reports_it():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5, 2)), jnp.float32)
    plain, moments = apply_norm(x, jnp.zeros(2))
    shifted, shifted_moments = apply_norm(x, jnp.array([3.0, -1.0]))
    np.testing.assert_array_equal(plain, shifted)
    np.testing.assert_allclose(plain.mean((0, 1, 2)), 0.5, atol=1e-6)
    np.testing.assert_allclose(plain.std((0, 1, 2)), 2.0, rtol=1e-4)
    np.testing.assert_allclose(shifted_moments["mean"] - moments["mean"], [3.0, -1.0], atol=1e-6)
    np.testing.assert_allclose(moments["var"], np.asarray(x).var((0, 1, 2)), rtol=1e-5)
    assert float(moments["count"]) == 60


def test_batch_norm_by_given_statistics_adds_the_offset():
    x = jnp.ones((1, 1, 1, 2))
    y, _ = apply_norm(x, jnp.array([3.0, 0.0]), mean=jnp.array([1.0, 1.0]), var=jnp.full(2, 4.0))
    np.testing.assert_allclose(y[0, 0, 0], [2 * 3 / 2 + 0.5, 0.5], rtol=1e-5)


def test_variance_survives_a_large_mean():
    x = 1e4 + jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 2)), jnp.float32)
    y, moments = apply_norm(x, jnp.zeros(2))
    assert np.all(np.asarray(moments["var"]) >= 0)
    assert np.all(np.isfinite(y))


def test_running_update_is_the_unbiased_exponential_average():
    running = {"norm0": {"mean": jnp.array([1.0]), "var": jnp.array([2.0])}}
    moments = {
        "norm0": {"mean": jnp.array([3.0]), "var": jnp.array([4.0]), "count": jnp.asarray(5.0)}
    }
    new = update_running(running, moments)["norm0"]
    assert float(new["mean"][0]) == pytest.approx(0.9 * 1 + 0.1 * 3)
    assert float(new["var"][0]) == pytest.approx(0.9 * 2 + 0.1 * 4 * 5 / 4)


def test_scale_and_bias_are_not_parameters():
    variables = init_model(Conv4(ways=5, filters=4), jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert set(variables.params["conv0"]) == {"kernel", "bias"}
    assert set(variables.params) == {*(f"conv{i}" for i in range(4)), "linear"}
    assert isinstance(Conv4(ways=5), nn.Module)


@pytest.mark.slow
def test_bfloat16_compute_dtype_change_logits_a_little():
    module = Conv4(ways=3, filters=4, compute_dtype="bfloat16")
    variables = init_model(module, jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(6, 16, 16, 1)), jnp.float32)
    logits, moments = make_forward(module)(variables.params, variables.norm, images)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, moments))} == {jnp.dtype("float32")}
    full, _ = make_forward(module.clone(compute_dtype=""))(variables.params, variables.norm, images)
    assert not np.array_equal(logits, full)
    np.testing.assert_allclose(logits, full, atol=0.1)
