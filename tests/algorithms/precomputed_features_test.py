"""ANIL on features computed once per task: the results of the whole backbone, for the work of one pass."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mamlpp_jax.algorithms.evaluation import task_logits
from mamlpp_jax.algorithms.inner_optimizers import lslr, masked, sgd
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.meta_loss import meta_loss
from mamlpp_jax.models import make_body_and_head, make_forward
from mamlpp_jax.models.layers import PerStepBatchNorm
from tests.helpers.small_learner import (
    STEPS,
    WAY,
    loss_at,
    make_episodes,
    make_learner,
    make_state,
    one_step,
    plan,
)


def is_head(path):
    return path.startswith("linear/")


def anil(base=None, **options):
    """A learner that adapts its head alone, and its state away from the start."""
    optimizer = masked(base or lslr(0.3), is_head)
    settings = {"inner_optimizer": optimizer, "per_step_affine": False, **options}
    module, learner = make_learner(**settings)
    rng = np.random.default_rng(2)
    state = make_state(module, learner)
    meta = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), state.meta
    )
    return (
        learner,
        dataclasses.replace(learner, body_and_head=make_body_and_head(module)),
        state._replace(meta=meta),
    )


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("statistics", "order", "multi_step"),
    [
        ("tasknorm", 2, False),  # the other modes in quick tests: below
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product(("batch", "support", "tasknorm"), (1, 2), (True, False))
        ),
    ],
)
def test_loss_gradient_and_moments_are_those_of_the_whole_backbone(statistics, order, multi_step):
    with jax.enable_x64(True):
        whole, split, state = anil(statistics=statistics)
        episodes, static = make_episodes(), {"order": order, "multi_step": multi_step}
        gradients = [gradient_of(learner, state, episodes, **static) for learner in (whole, split)]
        assert_same(*gradients)
        (loss, aux), gradient = gradients[0]
        assert float(jnp.abs(gradient.params["conv0"]["kernel"]).max()) > 1e-4
        assert np.isfinite(loss)
        assert aux.support_moments["norm0"]["mean"].shape == (STEPS, 4)


def gradient_of(learner, state, episodes, **static):
    """The meta-loss with its by-products, and its gradient."""
    function = jax.value_and_grad(partial(meta_loss, learner), has_aux=True)
    return jax.jit(function)(state.meta, state.batch_stats, episodes, plan(**static))


@pytest.mark.parametrize(
    ("base", "options", "static"),
    [
        (lslr, {}, {}),
        (lslr, {"statistics": "running", "per_step_statistics": False}, {"multi_step": False}),
        (sgd, {"statistics": "support"}, {"order": 1}),
    ],
    ids=["batch", "shared running", "support and fixed rates"],
)
def test_an_outer_step_updates_the_same_state(base, options, static):
    with jax.enable_x64(True):
        whole, split, state = anil(base(0.3), **options)
        episodes = make_episodes()
        assert_same(*(one_step(learner, state, episodes, **static) for learner in (whole, split)))


def test_predictions_after_every_step_are_those_of_the_whole_backbone():
    with jax.enable_x64(True):
        whole, split, state = anil(statistics="support")
        episode = jax.tree.map(lambda leaf: leaf[0], make_episodes())
        logits = [
            task_logits(learner, state.meta, state.batch_stats, episode, every_step=True)[0]
            for learner in (whole, split)
        ]
        assert_same(*logits)
        assert float(jnp.abs(logits[0][0] - logits[0][-1]).max()) > 1e-3


class Counted(nn.Module):
    """Says each time that its body runs."""

    ran: object

    @nn.compact
    def __call__(self, images):
        jax.debug.callback(self.ran)
        x = PerStepBatchNorm(name="norm0")(nn.Dense(2, name="conv0")(images))
        return nn.Dense(WAY, name="linear")(x.reshape(len(images), -1))


def passes_of_the_body(**options):
    """How often the body runs for one task."""
    calls = []
    module = Counted(lambda: calls.append(1))
    settings = {
        "forward": make_forward(module),
        "inner_optimizer": masked(sgd(0.1), is_head),
        "body_and_head": make_body_and_head(module),
        "per_step_affine": False,
    }
    learner = Learner(inner_steps=STEPS, **(settings | options))
    state = make_state(module, learner)
    calls.clear()
    loss_at(learner, state, make_episodes(tasks=1))[0].block_until_ready()
    jax.effects_barrier()
    return len(calls)


def test_the_body_runs_once_for_each_set():
    assert passes_of_the_body() == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"per_step_affine": True},
        {"statistics": "running"},
        {"statistics": "renorm"},
        {"inner_optimizer": lslr(0.1)},
        {"inner_optimizer": masked(lslr(0.1), lambda path: path == "conv0/bias")},
        {"body_and_head": None},
    ],
    ids=[
        *("per-step affine", "per-step running", "per-step renorm", "all adapted"),
        *("bias adapted", "not divided"),
    ],
)
def test_a_body_that_may_change_is_computed_in_every_step(changed):
    assert passes_of_the_body(**changed) >= 2 * STEPS
