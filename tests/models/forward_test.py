"""Any Flax module as a backbone: nested blocks, several normalised layers in one, or none."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from mamlpp_jax.algorithms.inner_optimizers import sgd
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.outer_loop import (
    OuterGradient,
    fixed_tasks,
    init_state,
    make_train_step,
    meta_gradient,
)
from mamlpp_jax.models import init_model, make_forward
from mamlpp_jax.models.layers import Conv, PerStepBatchNorm
from mamlpp_jax.types import Batch, Episode, StepPlan

OPTIMIZER = optax.sgd(0.1)


class Block(nn.Module):
    """Two convolutions with a normalisation each."""

    @nn.compact
    def __call__(self, x):
        for name in ("first", "second"):
            x, bias = Conv(3, name=f"conv_{name}")(x)
            x = nn.relu(PerStepBatchNorm(name=f"norm_{name}")(x, bias))
        return x


class Nested(nn.Module):
    @nn.compact
    def __call__(self, images):
        for block in range(2):
            images = Block(name=f"block{block}")(images)
        return nn.Dense(2, name="linear")(images.mean((1, 2)))


class Regressor(nn.Module):
    """No batch norm, no images: the sinusoids of the MAML paper have such a backbone."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(jnp.tanh(nn.Dense(8)(x)))


def one_step(learner, module, shape, episodes, **options):
    variables = init_model(module, jax.random.key(0), jnp.zeros((1, *shape)))
    state = init_state(learner, variables, OPTIMIZER)
    step = make_train_step(learner, OPTIMIZER, fixed_tasks, tasks_per_step=2, **options)
    weights = jnp.full(learner.inner_steps, 1 / learner.inner_steps)
    return state, *jax.jit(step)(state, episodes, StepPlan(weights, 2, multi_step=True))


@pytest.mark.parametrize(
    ("statistics", "per_step"),
    [
        ("running", True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product(("batch", "support", "running"), (True, False))
        ),
    ],
)
def test_nested_blocks_keep_statistics_and_affine_terms_per_step(statistics, per_step):
    module = Nested()
    learner = Learner(
        make_forward(module),
        sgd(0.1),
        inner_steps=3,
        statistics=statistics,
        per_step_affine=per_step,
        per_step_statistics=per_step,
    )
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 6, 1)), jnp.float32)
    labels = jnp.tile(jnp.array([0, 0, 1, 1]), (2, 1))
    old, new, metrics = one_step(
        learner, module, (6, 6, 1), Episode(Batch(images, labels), Batch(images + 0.1, labels))
    )
    mean = new.batch_stats["block1"]["norm_second"]["mean"]
    assert mean.shape == ((3, 3) if per_step else (3,))
    assert float(jnp.abs(mean).max()) > 0
    scale = new.meta.norm["block0"]["norm_first"]["scale"]
    assert scale.shape == mean.shape
    assert float(jnp.abs(scale - old.meta.norm["block0"]["norm_first"]["scale"]).max()) > 0
    assert bool(metrics.finite)


def regression():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(-3, 3, size=(2, 2, 5, 1)), jnp.float32)
    return Episode(Batch(x[0], jnp.sin(x[0])), Batch(x[1], jnp.sin(x[1])))


def squared_error(predictions, targets):
    return jnp.mean(jnp.square(predictions - targets))


def regression_learner():
    return Learner(
        make_forward(Regressor()),
        sgd(0.01),
        inner_steps=2,
        inner_loss=squared_error,
        query_loss=squared_error,
        metric=squared_error,
    )


def test_regression_with_a_backbone_without_batch_norm():
    _, new, metrics = one_step(regression_learner(), Regressor(), (1,), regression())
    assert (new.batch_stats, new.meta.norm) == ({}, {})
    assert float(metrics.metric) < float(
        metrics.loss
    )  # after the last step, against the mean of all
    _, _, later = one_step(regression_learner(), Regressor(), (1,), regression(), tasks_per_chunk=1)
    np.testing.assert_allclose(later.loss, metrics.loss, rtol=1e-5)


def test_the_outer_gradient_can_be_replaced():
    """Here by half the meta-gradient: the same step with half the rate."""

    def halved(learner, meta, batch_stats, episodes, plan):
        whole = meta_gradient(learner, meta, batch_stats, episodes, plan)
        return OuterGradient(jax.tree.map(lambda g: g / 2, whole.gradient), *whole[1:])

    old, new, _ = one_step(regression_learner(), Regressor(), (1,), regression())
    _, half, _ = one_step(
        regression_learner(), Regressor(), (1,), regression(), gradient_function=halved
    )
    for a, b, c in zip(*map(jax.tree.leaves, (old.meta, new.meta, half.meta)), strict=True):
        np.testing.assert_allclose(c - a, (b - a) / 2, atol=1e-6)


class OneBlock(nn.Module):
    """A convolution, normalised and perhaps pooled, in one call or in two."""

    fused: bool
    max_pool: bool = True
    stride: int = 1
    compute_dtype: str = ""

    @nn.compact
    def __call__(self, images):
        conv = Conv(4, self.stride, compute_dtype=self.compute_dtype, name="conv")
        norm = PerStepBatchNorm(max_pool=self.max_pool, name="norm")
        return norm.convolved(conv, images) if self.fused else norm(*conv(images))


def with_blend(norm):
    return {name: {**layer, "blend": jnp.zeros(2)} for name, layer in norm.items()}


def applied(channels, change=lambda norm: norm, **options):
    """Outputs and moments of the fused block and of its two layers, and the jaxpr of each."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 8, 8, channels)), jnp.float32)
    variables = OneBlock(False, **options).init(jax.random.key(0), images)
    norm = {"norm": {"scale": jnp.array([1.0, -1, 2, 1]), "bias": jnp.arange(4.0)}}
    variables = {"params": variables["params"], "norm": change(norm)}
    results = []
    for fused in (True, False):
        block = partial(OneBlock(fused, **options).apply, variables, mutable=["moments"])
        results.append((block(images), str(jax.make_jaxpr(block)(images))))
    return results


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pooled_convolution_of_few_channels_is_deferred(channels):
    (ours, program), (theirs, whole) = applied(channels)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert program != whole


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (16, {}),
        (1, {"max_pool": False}),
        (1, {"stride": 2}),
        (1, {"compute_dtype": "bfloat16"}),
        (1, {"change": with_blend}),
    ],
    ids=["many channels", "no pooling", "stride", "rounded", "TaskNorm"],
)
def test_other_convolutions_are_computed_as_such(channels, options):
    (ours, program), (theirs, whole) = applied(channels, **options)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert program == whole
