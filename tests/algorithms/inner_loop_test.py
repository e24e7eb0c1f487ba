"""The inner loop against a plain Python loop, on losses that know no learner and no episode."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mamlpp_jax.algorithms.inner_loop import adapt
from mamlpp_jax.algorithms.inner_optimizers import InnerOptimizer, lslr, masked, sgd

STEPS = 3


class Values(NamedTuple):
    """What the loss reads in each step, beside the optimizer's part."""

    inner: Any
    shift: jax.Array


RATES = {"w": jnp.asarray([0.1, -0.05, 0.3])}
VALUES = Values(RATES, jnp.asarray([1.0, 2.0, -1.0]))
THETA = {"w": jnp.asarray([[0.3, -0.7], [1.1, 0.4]])}


def loss(theta, values):
    distance = jnp.sin(theta["w"]) - values.shift
    return jnp.sum(distance**2), {"distance": distance}


def at(i):
    return jax.tree.map(lambda leaf: leaf[i], VALUES)


def gradient(w, i):
    return jax.grad(lambda w: loss({"w": w}, at(i))[0])(w)


def test_adapt_is_the_plain_loop():
    theta, trace = adapt(
        loss, lslr(0.1), THETA, VALUES, after_step=lambda theta, values: theta["w"] * values.shift
    )
    w = THETA["w"]
    for i in range(STEPS):
        value, aux = loss({"w": w}, at(i))
        np.testing.assert_allclose(trace.loss[i], value, rtol=1e-6)
        np.testing.assert_allclose(trace.aux["distance"][i], aux["distance"], rtol=1e-5)
        w = w - RATES["w"][i] * gradient(w, i)
        np.testing.assert_allclose(trace.after[i], w * VALUES.shift[i], rtol=1e-5)
    np.testing.assert_allclose(theta["w"], w, rtol=1e-5)


@pytest.mark.parametrize("options", [{"unroll": 1}, {"unroll": 2}, {"remat": True}])
def test_unrolling_and_rematerialisation_change_nothing(options):
    def last(theta, **options):
        return jnp.sum(jnp.cos(adapt(loss, lslr(0.1), theta, VALUES, **options)[0]["w"]))

    usual, other = (jax.grad(lambda t, o=o: last(t, **o))(THETA)["w"] for o in ({}, options))
    np.testing.assert_allclose(other, usual, rtol=1e-5)


def test_first_order_stops_the_gradient_of_the_gradient_alone():
    def last(theta, rates, order):
        values = VALUES._replace(inner=rates)
        return jnp.sum(adapt(loss, lslr(0.1), theta, values, order=order)[0]["w"] ** 2)

    first, second = (jax.grad(last, (0, 1))(THETA, RATES, order) for order in (1, 2))
    theta_s = adapt(loss, lslr(0.1), THETA, VALUES)[0]["w"]
    # First order: the gradient at theta_0 is the outer gradient at theta_S.
    np.testing.assert_allclose(first[0]["w"], 2 * theta_s, rtol=1e-5)
    assert float(jnp.abs(first[0]["w"] - second[0]["w"]).max()) > 1e-3
    assert np.all(np.abs(first[1]["w"]) > 0)


def test_plain_sgd_learns_nothing_and_uses_one_rate():
    fixed = adapt(loss, sgd(0.2), THETA, VALUES._replace(inner={}))[0]
    learned = lslr(0.2).init(THETA, STEPS)
    assert jax.tree.leaves(sgd(0.2).init(THETA, STEPS)) == []
    same = adapt(loss, lslr(0.2), THETA, VALUES._replace(inner=learned))[0]
    np.testing.assert_allclose(fixed["w"], same["w"], rtol=1e-6)


def test_a_stateful_transformation_carries_its_state_over_the_steps():
    momentum = InnerOptimizer(
        lambda params, steps: {}, lambda learned: optax.sgd(0.1, momentum=0.9)
    )
    theta, _ = adapt(loss, momentum, THETA, VALUES._replace(inner={}))
    w, velocity = THETA["w"], 0.0
    for i in range(STEPS):
        velocity = 0.9 * velocity + gradient(w, i)
        w = w - 0.1 * velocity
    np.testing.assert_allclose(theta["w"], w, rtol=1e-5)


BODY = jnp.array([[1.0, -2.0, 0.5], [0.3, 1.5, -1.0]])
TWO_LAYERS = {"body": {"kernel": BODY}, "head": {"kernel": jnp.ones((3, 2))}}


@pytest.mark.parametrize("base", [sgd(0.5), lslr(0.5)])
def test_a_masked_optimizer_adapts_the_chosen_tensors_alone(base):
    """The others stay at theta_0, and nothing is learned for them."""
    head_only = masked(base, lambda path: path.startswith("head/"))
    learned = head_only.init(TWO_LAYERS, 2)
    assert len(jax.tree.leaves(learned)) <= 1

    def inner(theta, values):
        outputs = theta["body"]["kernel"] @ theta["head"]["kernel"]
        return jnp.sum(jnp.square(outputs - jnp.eye(2))), None

    def outer(params, learned):
        theta, _ = adapt(inner, head_only, params, Values(learned, jnp.zeros(2)))
        return jnp.sum(jnp.sin(theta["head"]["kernel"])), theta

    (_, theta), gradients = jax.value_and_grad(outer, (0, 1), has_aux=True)(TWO_LAYERS, learned)
    np.testing.assert_array_equal(theta["body"]["kernel"], BODY)
    assert np.all(np.asarray(theta["head"]["kernel"]) != 1.0)
    assert np.any(np.asarray(gradients[0]["body"]["kernel"]) != 0.0)  # second order


@pytest.mark.parametrize("prefix", ["Head/", "heads/", "params/head"])
def test_a_mask_that_chooses_nothing_is_refused_by_the_names_there_are(prefix):
    optimizer = masked(lslr(0.1), lambda path: path.startswith(prefix))
    with pytest.raises(ValueError, match=r"chooses none.*body/kernel, head/kernel"):
        optimizer.init(TWO_LAYERS, 2)
    fixed = masked(sgd(0.1), lambda path: path.startswith(prefix))
    with pytest.raises(ValueError, match=r"chooses none"):
        adapt(lambda theta, values: (0.0, None), fixed, TWO_LAYERS, VALUES._replace(inner={}))
