"""A task's passes under every kind of statistics, its per-step values, and theta_0."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.algorithms.inner_optimizers import lslr, sgd
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.losses import InnerLoss, cross_entropy
from mamlpp_jax.algorithms.task import adapt_to, at_step, make_task, per_step_values
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.statistics import STATISTICS, Statistics
from mamlpp_jax.types import Batch, BodyAndHead, Episode, MetaParams

STEPS, K = 3, 4


def forward(params, norm, images, bn_stats=None):
    """A tiny backbone that normalises its features, with the moments of the real one."""
    x = images @ params["w"]
    mean, var = x.mean(0), x.var(0)
    moments = {"norm0": {"mean": mean, "var": var, "count": jnp.asarray(len(x), x.dtype)}}
    if bn_stats is not None:
        mean, var = bn_stats["norm0"]["mean"], bn_stats["norm0"]["var"]
    x = (x - mean) / jnp.sqrt(var + 1e-3)
    return x * norm["norm0"]["scale"] + norm["norm0"]["bias"], moments


def learner_of(**options):
    return Learner(forward, lslr(0.1), STEPS, **options)


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    norm = {"norm0": {"scale": 1 + 0.1 * normal(STEPS, K), "bias": 0.1 * normal(STEPS, K)}}
    rates = {"w": jnp.asarray([0.1, -0.05, 0.3])}
    meta = MetaParams({"w": normal(6, K)}, norm, rates)
    running = {"norm0": {"mean": normal(STEPS, K), "var": 1 + jnp.square(normal(STEPS, K))}}
    labels = jnp.arange(K, dtype=jnp.int32)
    support = Batch(normal(K, 6), labels)
    return meta, running, Episode(support, Batch(normal(2 * K, 6), jnp.repeat(labels, 2)))


@pytest.mark.parametrize("statistics", ["batch", "running", "support"])
def test_adapting_is_the_plain_loop(problem, statistics):
    meta, running, episode = problem
    learner = learner_of(statistics=statistics)
    task = make_task(learner, meta, running, episode)
    theta, trace = adapt_to(learner, task, order=2, after_step=lambda t, v: task.query(t, v)[0])
    w = meta.params["w"]
    for i in range(STEPS):
        norm, stats = jax.tree.map(lambda leaf, i=i: leaf[i], (meta.norm, running))
        given = stats if statistics == "running" else None

        def loss(w, norm=norm, given=given):
            logits, _ = forward({"w": w}, norm, episode.support.inputs, given)
            return cross_entropy(logits, episode.support.targets)

        assert float(trace.loss[i]) == pytest.approx(float(loss(w)), rel=1e-5)
        w = w - meta.inner["w"][i] * jax.grad(loss)(w)
        if statistics == "support":
            _, given = forward({"w": w}, norm, episode.support.inputs)
        logits, _ = forward({"w": w}, norm, episode.query.inputs, given)
        np.testing.assert_allclose(trace.after[i], logits, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(theta["w"], w, rtol=1e-4, atol=1e-5)


def first_query(learner, meta, running, episode):
    task = make_task(learner, meta, running, episode)
    return task.query(task.theta, at_step(task.per_step, 0))[0]


def test_each_mode_answers_queries_alone_as_its_record_says(problem):
    meta, running, episode = problem
    single = episode._replace(query=jax.tree.map(lambda leaf: leaf[:1], episode.query))
    for name in ("batch", "running", "support"):
        learner = learner_of(statistics=name)
        both, one = (first_query(learner, meta, running, e) for e in (episode, single))
        assert np.allclose(both[0], one[0], atol=1e-5) == STATISTICS[name].alone


def test_gradients_flow_through_the_support_statistics(problem):
    meta, running, episode = problem

    def loss(inputs):
        support = episode.support._replace(inputs=inputs)
        changed = episode._replace(support=support)
        logits = first_query(learner_of(statistics="support"), meta, running, changed)
        return cross_entropy(logits, episode.query.targets)

    assert float(jnp.abs(jax.grad(loss)(episode.support.inputs)).max()) > 1e-4


@pytest.mark.parametrize("mode", ["suport", "Support", "eval", "", None, 3])
def test_an_unknown_mode_is_told_the_modes_there_are(mode):
    with pytest.raises(ConfigError, match="batch, running, support, tasknorm, renorm"):
        learner_of(statistics=mode)


def test_a_mode_of_ones_own_is_one_record(problem):
    """Queries normalised half by the running moments and half by the support set's."""
    meta, running, episode = problem

    def mixed(running, support):
        return jax.tree.map(lambda a, b: (a + b) / 2, running, drop_count(support()))

    def drop_count(moments):
        return {name: {k: v[k] for k in ("mean", "var")} for name, v in moments.items()}

    record = Statistics("mixed", "half and half", query=mixed, reads_running=True)
    found = first_query(learner_of(statistics=record), meta, running, episode)
    norm, stats = jax.tree.map(lambda leaf: leaf[0], (meta.norm, running))
    _, own = forward(meta.params, norm, episode.support.inputs)
    given = jax.tree.map(lambda a, b: (a + b) / 2, stats, drop_count(own))
    expected, _ = forward(meta.params, norm, episode.query.inputs, given)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_shared_entries_are_copied_the_last_repeats_and_the_first_are_taken():
    norm = {"norm0": {"scale": jnp.arange(2.0), "bias": jnp.zeros(2)}}
    meta = MetaParams({}, norm, {"w": jnp.array([0.1, 0.2])}, {"a": jnp.array([3.0])})
    running = {"norm0": {"mean": jnp.arange(4.0).reshape(2, 2)}}
    learner = Learner(lambda *_: None, sgd(0.1), inner_steps=4, per_step_affine=False)
    longer = per_step_values(learner, meta, running)
    assert longer.norm["norm0"]["scale"].shape == (4, 2)
    np.testing.assert_allclose(longer.inner["w"], [0.1, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(longer.inner_loss["a"], [3.0] * 4)
    np.testing.assert_allclose(longer.bn_stats["norm0"]["mean"][3], [2, 3])
    np.testing.assert_array_equal(longer.number, range(4))
    shorter = per_step_values(dataclasses.replace(learner, inner_steps=1), meta, running)
    np.testing.assert_allclose(shorter.inner["w"], [0.1])


def test_theta_0_may_be_made_of_the_support_set(problem):
    """A head that starts from the class means of features, as prototypes do."""
    meta, running, episode = problem
    body = BodyAndHead(forward, lambda params, x: x, lambda path: False)

    def prototypes(params, support, features):
        return {"w": params["w"] + features(params).sum() + support.inputs.mean()}

    learner = learner_of(init_theta=prototypes, body_and_head=body)
    task = make_task(learner, meta, running, episode)
    norm = at_step(task.per_step, 0).norm
    features, _ = forward(meta.params, norm, episode.support.inputs)
    expected = meta.params["w"] + features.sum() + episode.support.inputs.mean()
    np.testing.assert_allclose(task.theta["w"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="body_and_head is None"):
        make_task(dataclasses.replace(learner, body_and_head=None), meta, running, episode)


def test_a_step_may_have_a_batch_of_its_own(problem):
    meta, running, episode = problem
    order = jnp.asarray([[0, 1], [2, 3], [1, 2]])
    batches = jax.tree.map(lambda leaf: leaf[order], episode.support)
    learner = learner_of()
    task = make_task(learner, meta, running, episode, batches=batches)
    _, trace = adapt_to(learner, task, order=1)
    w = meta.params["w"]
    for i in range(STEPS):
        norm = at_step(task.per_step, i).norm

        def loss(w, i=i, norm=norm):
            logits, _ = forward({"w": w}, norm, batches.inputs[i])
            return cross_entropy(logits, batches.targets[i])

        np.testing.assert_allclose(trace.loss[i], loss(w), rtol=1e-4)
        w = w - meta.inner["w"][i] * jax.grad(loss)(w)


def test_an_inner_loss_reads_its_learned_part_of_the_step(problem):
    meta, running, episode = problem

    def apply(learned, outputs, batch, theta):
        penalty = learned["strength"] * jnp.sum(theta["w"] ** 2)
        return cross_entropy(outputs, batch.targets) + penalty

    strengths = jnp.asarray([0.0, 0.5, 1.0])
    inner_loss = InnerLoss(lambda params, steps: {"strength": jnp.zeros(steps)}, apply)
    learned = meta._replace(inner_loss={"strength": strengths})
    losses = []
    for learner, of in ((learner_of(), meta), (learner_of(inner_loss=inner_loss), learned)):
        task = make_task(learner, of, running, episode)
        value = lambda i, task=task: task.support_loss(task.theta, at_step(task.per_step, i))[0]  # noqa: E731
        losses.append([float(value(i)) for i in range(STEPS)])
    penalty = strengths * jnp.sum(meta.params["w"] ** 2)
    np.testing.assert_allclose(np.subtract(*losses[::-1]), penalty, rtol=1e-4, atol=1e-5)
