"""A small two-layer network, random tasks, and the multi-step meta-loss as plain Python loops over `jax.grad`."""

import jax
import jax.numpy as jnp
import numpy as np

from mamlpp_jax.algorithms.losses import (
    apply_inner_loss,
    cross_entropy,
    init_inner_loss,
    term_of_queries,
)
from mamlpp_jax.algorithms.meta_loss import meta_loss
from mamlpp_jax.types import Batch, BodyAndHead, Episode, MetaParams, StepPlan

TASKS, STEPS, D, F, K = 2, 3, 6, 5, 4
EPSILON, ANNEAL = 1e-3, 0.3


def body(params, norm, images, bn_stats=None, key=None):
    """The features of a layer with a normalisation behind it, and its moments."""
    x = images @ params["body"]["kernel"] + params["body"]["bias"]
    mean, var = x.mean(0), x.var(0)
    moments = {"norm": {"mean": mean, "var": var, "count": jnp.asarray(len(x), x.dtype)}}
    if bn_stats is not None:
        mean, var = bn_stats["norm"]["mean"], bn_stats["norm"]["var"]
    if "blend" in norm["norm"]:
        # TaskNorm of examples with a single position: their own mean is themselves, their own variance 0.
        scale, offset = norm["norm"]["blend"]
        weight = jax.nn.sigmoid(scale * (bn_stats or moments)["norm"]["count"] + offset)
        pooled = weight * mean + (1 - weight) * x
        var = weight * (var + (mean - pooled) ** 2) + (1 - weight) * (x - pooled) ** 2
        mean = pooled
    x = (x - mean) / jnp.sqrt(var + EPSILON)
    if "anneal" in (bn_stats or moments)["norm"]:
        x = renormalised(moments["norm"], bn_stats["norm"], x)
    x = x * norm["norm"]["scale"] + norm["norm"]["bias"]
    return jnp.tanh(x), moments


def head(params, features):
    return features @ params["linear"]["kernel"] + params["linear"]["bias"]


def forward(params, norm, images, bn_stats=None, key=None):
    """The body with a linear layer behind it, and its moments."""
    features, moments = body(params, norm, images, bn_stats)
    return head(params, features), moments


BODY_AND_HEAD = BodyAndHead(body, head, lambda path: path.startswith("linear/"))


def renormalised(own, given, x):
    """Batch renormalisation of what is normalised with given statistics already."""
    deviations = [jnp.sqrt(of["var"] + EPSILON) for of in (own, given)]
    before = x * deviations[1] + given["mean"]
    r = (deviations[0] / deviations[1]) ** given["anneal"]
    d = given["anneal"] * (own["mean"] - given["mean"]) / deviations[1]
    r, d = jax.lax.stop_gradient((r, d))
    return (before - own["mean"]) / deviations[0] * r + d


def problem(learner):
    """Meta-parameters, running statistics and a batch of tasks, all of them random."""
    optimizer, mode = learner.inner_optimizer, learner.mode.name
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape))

    params = {
        "body": {"kernel": normal(D, F), "bias": normal(F)},
        "linear": {"kernel": normal(F, K), "bias": normal(K)},
    }
    norm = {"norm": {"scale": 1 + 0.1 * normal(STEPS, F), "bias": 0.1 * normal(STEPS, F)}}
    if mode == "tasknorm":
        norm["norm"]["blend"] = 0.2 * normal(STEPS, 2)
    stats = {"norm": {"mean": normal(STEPS, F), "var": 1 + jnp.square(normal(STEPS, F))}}
    learned, loss = jax.tree.map(
        lambda leaf: leaf + 0.02 * normal(*leaf.shape),
        (optimizer.init(params, STEPS), init_inner_loss(learner.inner_loss, params, STEPS)),
    )
    labels = jnp.tile(jnp.arange(K), (TASKS, 1))
    support = Batch(normal(TASKS, K, D), labels)
    episodes = Episode(support, Batch(normal(TASKS, 2 * K, D), jnp.tile(labels, 2)))
    return MetaParams(params, norm, learned, loss), stats, episodes


def plain_loss(learner, order, meta, stats, episodes, weights):
    """The multi-step meta-loss of a learner of `forward`, one task and one inner step after another."""
    optimizer, mode = learner.inner_optimizer, learner.mode.name

    def entry(tree, i):
        return jax.tree.map(lambda leaf: leaf[min(i, len(leaf) - 1)], tree)

    if mode == "renorm":
        stats = {"norm": {**stats["norm"], "anneal": jnp.full(STEPS, ANNEAL)}}
    total = 0.0
    for task in range(TASKS):
        episode = jax.tree.map(lambda leaf, t=task: leaf[t], episodes)
        (support, labels), (query, query_labels), _ = episode
        state = None

        def of_mode(theta, norm, running, support=support):
            """The moments that normalise the support pass, and the query pass."""
            given = running if mode in ("running", "renorm") else None
            if mode in ("support", "tasknorm"):
                return given, forward(theta, norm, support)[1]
            return given, given

        def features(params, support=support):
            norm, running = entry(meta.norm, 0), entry(stats, 0)
            return body(params, norm, support, of_mode(params, norm, running)[0])[0]

        theta = learner.init_theta(meta.params, Batch(support, labels), features)
        for i in range(STEPS):
            norm, running = entry(meta.norm, i), entry(stats, i)
            learned = entry(meta.inner_loss, i)

            def loss(theta, norm=norm, running=running, learned=learned, task=episode):
                of_support, of_query = of_mode(theta, norm, running)
                outputs = forward(theta, norm, task.support.inputs, of_support)[0]
                value = apply_inner_loss(learner.inner_loss, learned, outputs, task.support, theta)
                if term := term_of_queries(learner.inner_loss):
                    value += term(
                        learned, forward(theta, norm, task.query.inputs, of_query)[0], theta
                    )
                return value

            gradient = jax.grad(loss)(theta)
            if order == 1:
                gradient = jax.lax.stop_gradient(gradient)
            transform = optimizer.transform(entry(meta.inner, i))
            state = transform.init(theta) if i == 0 else state
            updates, state = transform.update(gradient, state, theta)
            theta = jax.tree.map(jnp.add, theta, updates)
            logits = forward(theta, norm, query, of_mode(theta, norm, running)[1])[0]
            total += weights[i] * cross_entropy(logits, query_labels) / TASKS
    return total


def assert_gradient_is_that_of_a_plain_loop(learner, order):
    """Compares the multi-step meta-loss and its gradient; to be called with 64 bits."""
    meta, stats, episodes = problem(learner)
    weights = jnp.asarray([0.2, 0.3, 0.5])
    plan = StepPlan(weights, order, multi_step=True, anneal=ANNEAL)

    def ours(meta):
        return meta_loss(learner, meta, stats, episodes, plan)[0]

    def plain(meta):
        return plain_loss(learner, order, meta, stats, episodes, weights)

    found, expected = (jax.jit(jax.value_and_grad(f))(meta) for f in (ours, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), found, expected)
