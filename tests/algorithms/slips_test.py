"""Mistakes of people who use the library end in one sentence of ours, before anything is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import mamlpp_jax as maml
from mamlpp_jax.errors import MamlppError

ADAM = optax.adam(1e-2)
LABELS = jnp.tile(jnp.arange(6) % 2, (2, 1))


def squared_error(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def train(
    net=None,
    labels=LABELS,
    *,
    inner=None,
    plan=None,
    outer=ADAM,
    tasks=2,
    steps=2,
    jit=False,
    **more,
):
    """One outer step on two tasks of six vectors."""
    net, plan = net or nn.Dense(2), plan or maml.StepPlan()
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 3))
    learner = maml.Learner(maml.make_forward(net), inner or maml.sgd(0.1), steps, **more)
    state = maml.init_state(learner, maml.init_model(net, jax.random.key(1), inputs[0]), outer)
    step = maml.make_train_step(learner, outer, maml.fixed_tasks, tasks_per_step=tasks)
    batch = maml.Batch(inputs, labels)
    return (jax.jit(step) if jit else step)(state, maml.Episode(batch, batch), plan)[1]


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=False)(nn.Dense(8)(x)))


class Cached(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "seen", jnp.zeros, ())
        return nn.Dense(2)(x)


def shared_rate(shape):
    init = lambda params, steps: {"lr": jnp.full(shape, 0.1)}  # noqa: E731
    return maml.InnerOptimizer(init, lambda learned: optax.sgd(learned["lr"]))


def learned_weight(shape):
    init = lambda params, steps: {"weight": jnp.ones(shape)}  # noqa: E731
    return maml.InnerLoss(init, lambda learned, outputs, batch, theta: jnp.sum(outputs))


def steps_of(tasks, **options):
    """Calls `train` with a meta-batch that is not `tasks` long."""
    return lambda: train(tasks=tasks, **options)


SLIPS = {
    "nn.BatchNorm": (lambda: train(Norm()), "Norm has running statistics in BatchNorm_0.*PerStepB"),
    "another collection": (lambda: train(Cached()), "variables of the collection 'cache'"),
    "too few tasks": (steps_of(4), r"shape \(2, 6, 3\), but tasks_per_step is 4; .* 4 tasks"),
    "too many tasks": (steps_of(1), r"tasks_per_step is 1; its first axis must have 1 tasks"),
    "too few, compiled": (steps_of(4, jit=True), "tasks_per_step is 4"),
    "labels 1..2": (
        lambda: train(labels=LABELS + 1),
        "from 1 to 2, but the backbone has 2 outputs",
    ),
    "labels -1..0": (
        lambda: train(labels=LABELS - 1),
        r"from -1 to 0.*classes of each task 0\.\.1",
    ),
    "float labels": (lambda: train(labels=LABELS * 1.0), "labels are float32; .* needs integers"),
    "rate of no step": (
        lambda: train(inner=shared_rate(())),
        r"'lr'.* shape \(\); .* each of the 2",
    ),
    "rates of 3 steps": (lambda: train(inner=shared_rate((3,))), r"InnerOptimizer.*shape \(3,\)"),
    "loss of no step": (
        lambda: train(inner_loss=learned_weight(())),
        r"InnerLoss\.init made the leaf .*'weight'",
    ),
    "no weights": (
        lambda: maml.StepPlan(multi_step=True),
        "multi_step is True, but weights is None",
    ),
    "one weight": (
        lambda: train(plan=maml.StepPlan(jnp.ones(1), multi_step=True)),
        r"shape \(1,\); it must be \(2,\)",
    ),
    "three weights": (
        lambda: train(plan=maml.StepPlan(jnp.ones(3), multi_step=True), jit=True),
        r"shape \(3,\); it must be \(2,\)",
    ),
    "order 0": (lambda: maml.StepPlan(order=0), "order is 0; it must be 1 or 2"),
    "order 3": (lambda: train(plan=maml.StepPlan(order=3)), "order is 3"),
    "no inner step": (lambda: train(steps=0), "inner_steps is 0; it must be 1 or more"),
    "statistics": (
        lambda: train(statistics="suport"),
        "'suport'; choose one of batch, running, sup",
    ),
    "mask of nothing": (
        lambda: train(inner=maml.masked(maml.lslr(0.1), lambda path: "head" in path)),
        "chooses none of the tensors.*bias, kernel",
    ),
    "line search": (lambda: train(outer=optax.lbfgs(0.1)), "outer optimizer needs .*value_fn"),
    "a shape for inputs": (
        lambda: maml.init_model(nn.Dense(2), jax.random.key(0), (3,)),
        r"leaf 3; give arrays or jax\.ShapeDtypeStruct",
    ),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_ends_in_one_sentence_of_ours(name):
    call, sentence = SLIPS[name]
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text.strip()
    # Ours: raised in a file of the package, not inside Flax, JAX or optax.
    assert "mamlpp_jax" in str(caught.traceback[-1].path)
    assert type(caught.value) is ValueError or isinstance(caught.value, MamlppError)


@pytest.mark.parametrize("labels", [LABELS + 1, LABELS - 1])
def test_compiled_labels_outside_the_classes_are_reported_as_not_finite(labels):
    """Values are not known there: neither a silent NaN nor the last class."""
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 3))
    learner = maml.Learner(maml.make_forward(nn.Dense(2)), maml.sgd(0.1), 2)
    variables = maml.init_model(nn.Dense(2), jax.random.key(1), inputs[0])
    state = maml.init_state(learner, variables, ADAM)
    step = jax.jit(maml.make_train_step(learner, ADAM, maml.fixed_tasks, tasks_per_step=2))
    for given, finite in ((LABELS, True), (labels, False)):
        support, query = maml.Batch(inputs, LABELS), maml.Batch(inputs, given)
        metrics = step(state, maml.Episode(support, query), maml.StepPlan())[1]
        assert bool(metrics.finite) == finite


@pytest.mark.parametrize("name", ["reduce_on_plateau", "polyak_sgd"])
def test_outer_optimizers_that_want_the_loss_get_it(name):
    outer = {
        "reduce_on_plateau": optax.chain(ADAM, optax.contrib.reduce_on_plateau(patience=2)),
        "polyak_sgd": optax.polyak_sgd(1.0),
    }[name]
    assert np.isfinite(train(outer=outer, jit=True).loss)
    assert np.isfinite(train(outer=outer).loss)


class Several(nn.Module):
    """Two outputs in one container."""

    form: str

    @nn.compact
    def __call__(self, x):
        a, b = nn.Dense(1)(x), nn.Dense(1)(x)
        return {
            "tuple": (a, b),
            "list": [a, b],
            "dict": {"0": a, "1": b},
            "array": jnp.stack([a, b]),
        }[self.form]


def several_errors(outputs, targets):
    a, b = outputs.values() if isinstance(outputs, dict) else outputs
    return squared_error(a, targets[0]) + squared_error(b, targets[1])


@pytest.mark.parametrize("form", ["tuple", "list", "dict", "array"])
def test_several_outputs_report_the_metric_of_the_last_step(form):
    losses = dict.fromkeys(("inner_loss", "query_loss", "metric"), several_errors)
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 3))
    targets = inputs[..., :1], 2 * inputs[..., 1:2]
    last, weighted = (
        train(Several(form), targets, plan=plan, steps=3, **losses)
        for plan in (maml.StepPlan(), maml.StepPlan(jnp.array([0.2, 0.3, 0.5]), multi_step=True))
    )
    assert float(weighted.metric) == pytest.approx(float(last.metric), rel=1e-5)
    assert float(last.metric) == pytest.approx(float(last.loss), rel=1e-5)
    assert abs(float(weighted.loss) - float(last.loss)) > 1e-4


def test_rank_promotion_and_strict_dtypes_pass():
    net = maml.Conv4(ways=2, filters=4)
    images = jax.random.normal(jax.random.key(0), (2, 6, 16, 16, 1))
    learner = maml.Learner(maml.make_forward(net), maml.lslr(0.1), 2, statistics="support")
    variables = maml.init_model(net, jax.random.key(1), images[0])
    state = maml.init_state(learner, variables, ADAM)
    batch = maml.Batch(images, LABELS)
    arguments = state.meta, state.batch_stats, maml.Episode(batch, batch)
    plan = maml.StepPlan(jnp.array([0.5, 0.5]), multi_step=True)

    def gradient(meta, stats, episodes):
        return jax.grad(lambda meta: maml.meta_loss(learner, meta, stats, episodes, plan)[0])(meta)

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(gradient, *arguments)
    with jax.numpy_rank_promotion("raise"):
        step = maml.make_train_step(learner, ADAM, maml.fixed_tasks, tasks_per_step=2)
        jax.eval_shape(step, state, arguments[2], plan)
