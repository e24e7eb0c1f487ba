"""ResNet-12 against a plain Flax network of `lax.conv`, in value and in second order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mamlpp_jax.algorithms.losses import cross_entropy
from mamlpp_jax.models import ResNet12, init_model, make_forward
from mamlpp_jax.models.resnet12 import widths
from tests.helpers.small_runs import small_experiment

SIZE, FILTERS, WAYS = 16, 2, 3


class Plain(nn.Module):
    """The same network of Flax's own layers."""

    normalize_features: bool = False

    @nn.compact
    def __call__(self, x):
        for block in range(4):
            filters = FILTERS * 2**block
            shortcut = self._layer(filters, (1, 1), f"block{block}_shortcut", x)
            for layer in range(3):
                x = self._layer(filters, (3, 3), f"block{block}_{layer}", x)
                x = x + shortcut if layer == 2 else x
                x = nn.leaky_relu(x, 0.1)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.mean((1, 2))
        if self.normalize_features:
            x = x - x.mean(-1, keepdims=True)
            x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return nn.Dense(WAYS, param_dtype=x.dtype, name="linear")(x)

    def _layer(self, filters, window, name, x):
        x = nn.Conv(filters, window, use_bias=False, param_dtype=x.dtype, name=f"conv_{name}")(x)
        return nn.BatchNorm(
            use_running_average=False, epsilon=1e-5, param_dtype=x.dtype, name=f"norm_{name}"
        )(x)


def plain_params(params, norm):
    """Ours, under the names of `Plain`."""
    renamed = {"linear": params["linear"]}
    for block, layers in norm.items():
        for layer, affine in layers.items():
            name = f"{block}_{layer.removeprefix('norm').removeprefix('_')}"
            kernel = params[block][layer.replace("norm", "conv")]["kernel"]
            renamed[f"conv_{name}"] = {"kernel": kernel}
            renamed[f"norm_{name}"] = affine
    return renamed


def ours(params, norm, images, *, normalize_features=False):
    module = ResNet12(WAYS, FILTERS, normalize_features=normalize_features)
    return make_forward(module)(params, norm, images)[0]


def theirs(params, norm, images, *, normalize_features=False):
    variables = {"params": plain_params(params, norm)}
    return Plain(normalize_features).apply(variables, images, mutable=["batch_stats"])[0]


@pytest.fixture
def problem():
    with jax.enable_x64(True):
        init = jax.jit(partial(init_model, ResNet12(WAYS, FILTERS)))
        variables = init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
        rng = np.random.default_rng(0)
        params, norm = jax.tree.map(
            lambda leaf: jnp.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape),
            (variables.params, variables.norm),
        )
        images = jnp.asarray(rng.normal(size=(6, SIZE, SIZE, 3)))
        yield params, norm, images


@pytest.mark.parametrize("normalize_features", [False, True])
def test_the_forward_pass_is_the_plain_networks(problem, normalize_features):
    logits = [
        jax.jit(partial(network, normalize_features=normalize_features))(*problem)
        for network in (ours, theirs)
    ]
    np.testing.assert_allclose(*logits, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_gradients_through_an_inner_step_are_the_plain_networks(problem):
    params, norm, images = problem
    labels = jnp.arange(6) % WAYS

    def meta_loss(params, norm, network):
        def loss(theta, part):
            return cross_entropy(network(theta, norm, images[part]), labels[part])

        gradient = jax.grad(loss)(params, slice(0, 3))
        theta = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        return loss(theta, slice(3, 6))

    gradients = [
        jax.jit(jax.grad(partial(meta_loss, network=network), (0, 1)))(params, norm)
        for network in (ours, theirs)
    ]
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * max(1.0, float(jnp.abs(b).max())))


def test_widths_and_the_number_of_weights():
    assert widths(64) == (64, 160, 320, 640)
    assert widths(16) == (16, 32, 64, 128)
    shapes = jax.eval_shape(
        lambda: init_model(ResNet12(5), jax.random.key(0), jnp.zeros((1, 84, 84, 3)))
    )
    body = {name: tree for name, tree in shapes.params.items() if name != "linear"}
    # The usual count of the network without its head, batch norm included.
    leaves = jax.tree.leaves((body, shapes.norm))
    assert sum(leaf.size for leaf in leaves) == 12_424_320
    assert shapes.params["linear"]["kernel"].shape == (640, 5)


def test_a_configuration_names_it_and_its_norm_is_per_step():
    experiment = small_experiment(**{"model.name": "resnet12", "model.filters": 2})
    state = experiment.state_shapes()
    assert state.meta.norm["block3"]["norm_shortcut"]["scale"].shape == (2, 16)
    assert state.batch_stats["block0"]["norm2"]["mean"].shape == (2, 2)
    assert state.meta.inner["block1"]["conv_shortcut"]["kernel"].shape == (2,)
    assert set(state.meta.params["block1"]["conv0"]) == {"kernel"}
