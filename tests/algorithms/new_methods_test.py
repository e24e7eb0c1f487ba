"""MeTAL, Proto-MAML and Meta-Curvature against plain loops in float64 and NumPy rewrites of their formulas."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.algorithms.inner_optimizers import lslr, masked, sgd
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.losses import cross_entropy
from mamlpp_jax.algorithms.meta_loss import meta_loss
from mamlpp_jax.algorithms.metacurvature import metacurvature
from mamlpp_jax.algorithms.metal import metal, metal_inductive
from mamlpp_jax.algorithms.protomaml import prototypes
from mamlpp_jax.statistics import STATISTICS
from mamlpp_jax.types import Batch, StepPlan
from tests.helpers.plain_loop import (
    BODY_AND_HEAD,
    STEPS,
    D,
    F,
    K,
    assert_gradient_is_that_of_a_plain_loop,
    forward,
    problem,
)

HEAD_ALONE = masked(lslr(0.3), BODY_AND_HEAD.in_head)
PARTS = {
    "metal": {"inner_loss": metal()},
    "metal_inductive": {"inner_loss": metal_inductive()},
    "protomaml": {"init_theta": prototypes(K), "body_and_head": BODY_AND_HEAD},
    "protomaml+metacurvature": {
        "init_theta": prototypes(K),
        "body_and_head": BODY_AND_HEAD,
        "inner_optimizer": metacurvature(0.1),
    },
    "protomaml+anil": {
        "init_theta": prototypes(K),
        "body_and_head": BODY_AND_HEAD,
        "inner_optimizer": HEAD_ALONE,
    },
}
SAMPLE = [
    ("metal_inductive", 2, "running", True),
    ("protomaml", 1, "renorm", False),
    ("protomaml+anil", 2, "support", False),
]
GRID = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in itertools.product(PARTS, (1, 2), STATISTICS, (False, True))
]


@pytest.mark.parametrize(("name", "order", "mode", "remat"), [*SAMPLE, *GRID])
def test_the_meta_gradient_is_that_of_a_plain_loop(name, order, mode, remat):
    options = {"inner_optimizer": sgd(0.1), **PARTS[name]}
    with jax.enable_x64(True):
        learner = Learner(forward, inner_steps=STEPS, statistics=mode, remat=remat, **options)
        assert_gradient_is_that_of_a_plain_loop(learner, order)


def random_tree(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), tree)


def test_metacurvature_is_its_formula():
    """A convolution has three matrices, the head's kernel one, a vector a factor per element."""
    with jax.enable_x64(True):
        params = {
            "conv": {"kernel": jnp.zeros((3, 3, 2, 4)), "bias": jnp.zeros(4)},
            "linear": {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3)},
        }
        g = random_tree(params, 1)
        learned = random_tree(metacurvature(0.1).init(params, 2), 2)
        curve = jax.tree.map(lambda leaf: np.asarray(leaf[0]), learned)
        transform = metacurvature(0.1).transform(jax.tree.map(lambda leaf: leaf[0], learned))
        updates, _ = transform.update(g, transform.init(params), params)
        g, updates = jax.tree.map(np.asarray, (g, updates))

    window, inputs, outputs = curve["conv"]["kernel"]
    flat = g["conv"]["kernel"].reshape(9, 2, 4)
    expected = np.einsum("wv,ij,op,vjp->wio", window, inputs, outputs, flat).reshape(3, 3, 2, 4)
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.1 * expected, atol=1e-12)
    (inputs,) = curve["linear"]["kernel"]
    np.testing.assert_allclose(
        updates["linear"]["kernel"], -0.1 * inputs @ g["linear"]["kernel"], atol=1e-12
    )
    for layer in params:
        np.testing.assert_allclose(
            updates[layer]["bias"], -0.1 * curve[layer]["bias"] * g[layer]["bias"], atol=1e-12
        )


def test_metacurvature_begins_as_gradient_descent_and_has_matrices_per_step_where_asked():
    params = {"conv": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)}
    for per_step, entries in ((False, 1), (True, 5)):
        optimizer = metacurvature(0.1, per_step=per_step)
        learned = optimizer.init(params, 5)
        assert {len(leaf) for leaf in jax.tree.leaves(learned)} == {entries}
        transform = optimizer.transform(jax.tree.map(lambda leaf: leaf[0], learned))
        updates, _ = transform.update(params, transform.init(params), params)
        jax.tree.map(lambda update: np.testing.assert_allclose(update, -0.1), updates)


def test_prototypes_compare_squared_distances_whatever_the_class_sizes():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(6, F)), np.array([2, 0, 2, 1, 2, 0])
    with jax.enable_x64(True):
        support = Batch(None, jnp.asarray(labels))
        theta = prototypes(3)({"body": 1}, support, lambda params: jnp.asarray(x))
        theta = jax.tree.map(np.asarray, theta)
    query = rng.normal(size=(4, F))
    means = np.stack([x[labels == k].mean(0) for k in range(3)])
    distances = np.square(query[:, None] - means).sum(-1)
    logits = query @ theta["linear"]["kernel"] + theta["linear"]["bias"]
    np.testing.assert_allclose(logits, np.square(query).sum(-1)[:, None] - distances, atol=1e-12)
    assert theta["body"] == 1


def network(weights, x):
    hidden = np.maximum(x @ weights["kernel0"] + weights["bias0"], 0)
    return hidden @ weights["kernel1"] + weights.get("bias1", 0)


def normalised(x):
    return (x - x.mean()) / (x.std(ddof=1) + 1e-12)


def adapted(learned, state):
    """The tensors of the loss network in the order bias0, kernel0, kernel1."""
    adapter = learned["adapter"]
    factor, offset = np.split(network(adapter, state), 2)
    return {
        name: (1 + adapter["multiplier"][i] * factor[i]) * learned["loss"][name]
        + adapter["offset"][i] * offset[i]
        for i, name in enumerate(sorted(learned["loss"]))
    }


def metal_problem():
    rng = np.random.default_rng(0)
    params = {
        "body": {"kernel": rng.normal(size=(D, F))},
        "linear": {"kernel": rng.normal(size=(F, K)), "bias": rng.normal(size=K)},
    }
    labels, outputs = np.arange(K), rng.normal(size=(K, K))
    learned = random_tree(metal().init(jax.tree.map(jnp.asarray, params), 1))
    return params, labels, outputs, jax.tree.map(lambda leaf: np.asarray(leaf[0]), learned)


def test_metal_is_its_formula():
    with jax.enable_x64(True):
        params, labels, outputs, learned = metal_problem()
        batch = Batch(None, jnp.asarray(labels))
        of_support = metal().apply(learned, jnp.asarray(outputs), batch, params)
        of_queries = metal().of_queries(learned, jnp.asarray(outputs), params)
        ce = float(cross_entropy(jnp.asarray(outputs), jnp.asarray(labels)))

    means = np.array([leaf.mean() for leaf in jax.tree.leaves(params)])
    state = np.array([ce, *means])
    rows = np.hstack([np.tile(state, (K, 1)), outputs, np.eye(K)[labels]])
    term = network(adapted(learned["support"], normalised(state)), normalised(rows)).mean()
    np.testing.assert_allclose(of_support, ce + term, atol=1e-12)

    p = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    certainty = (p * np.log(p)).sum(-1, keepdims=True)
    rows = normalised(np.hstack([np.tile(means, (K, 1)), outputs, certainty]))
    term = network(adapted(learned["query"], rows.mean(0)), rows).mean()
    np.testing.assert_allclose(of_queries, term, atol=1e-12)


def test_metal_takes_fewer_classes_than_trained_with_and_refuses_more():
    params, labels, outputs, learned = metal_problem()
    batch = Batch(None, jnp.asarray(labels[: K - 1]))
    fewer = metal().apply(learned, jnp.asarray(outputs[: K - 1, : K - 1]), batch, params)
    assert np.isfinite(fewer)
    with pytest.raises(ValueError, match=f"there are {K + 1} classes, .* trained with {K}"):
        metal().apply(learned, jnp.ones((K + 1, K + 1)), Batch(None, jnp.arange(K + 1)), params)


@pytest.mark.parametrize(("loss", "depends"), [(metal(), True), (metal_inductive(), False)])
def test_only_the_transductive_form_reads_the_queries(loss, depends):
    with jax.enable_x64(True):
        learner = Learner(forward, sgd(0.3), STEPS, statistics="support", inner_loss=loss)
        meta, stats, episodes = problem(learner)
        first = jax.tree.map(lambda leaf: leaf, episodes.query.inputs)

        def one_query(others):
            """The outputs of the first query, beside others."""
            inputs = first.at[:, 1:].add(others)
            changed = episodes._replace(query=episodes.query._replace(inputs=inputs))
            return meta_loss(learner, meta, stats, changed, StepPlan(order=1))[1].outputs[:, 0]

        moved = np.abs(one_query(0.0) - one_query(1.0)).max()
    assert (moved > 1e-6) == depends
