"""From a configuration alone to the learner, the optimizer, the first state and the plan of each epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from mamlpp_jax.config import validate
from mamlpp_jax.config.parts import BACKBONES, INIT_THETA, Backbone, InitialWeights
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training import learner as learner_lib
from mamlpp_jax.training.dry_run import count_parameters
from tests.helpers.refusals import compilations
from tests.helpers.small_runs import SIZE, small_config

LAYERS, FILTERS, STEPS = 4, 4, 5
IMAGES = learner_lib.example_images((SIZE, SIZE, 1))


def shapes_of(config):
    sharding = SingleDeviceSharding(jax.devices()[0])
    return learner_lib.state_shapes(config, IMAGES, sharding)


def learned(method, **fields):
    """How many numbers each part of what is learned has, and the shapes of the state."""
    state = shapes_of(small_config(method, **{"train.inner_steps": STEPS, **fields}))
    counts = {name: count_parameters(tree) for name, tree in state.meta._asdict().items()}
    return counts, state


def test_extra_parameters_are_as_many_as_the_paper_says():
    """LSLR one per tensor per step; BNWB filters x layers x (steps - 1), for scale and for bias."""
    maml, state = learned("maml")
    tensors = len(jax.tree.leaves(state.meta.params))
    assert tensors == 2 * LAYERS + 2
    assert maml["inner"] == 0
    assert maml["norm"] == 2 * FILTERS * LAYERS
    assert count_parameters(state.batch_stats) == 2 * FILTERS * LAYERS
    assert learned("maml+lslr")[0] == {**maml, "inner": tensors * STEPS}
    extra = 2 * FILTERS * LAYERS * (STEPS - 1)
    bn, bn_state = learned("maml+bnrs+bnwb")
    assert bn == {**maml, "norm": maml["norm"] + extra}
    assert count_parameters(bn_state.batch_stats) == 2 * FILTERS * LAYERS * STEPS
    for method in ("maml+msl", "maml+da", "maml+ca"):
        assert learned(method)[0] == maml
    both = {**maml, "inner": tensors * STEPS, "norm": maml["norm"] + extra}
    assert learned("maml++")[0] == both
    assert learned("maml++", **{"model.filters": 8})[0]["norm"] == 2 * 8 * LAYERS * STEPS


def test_shapes_are_those_of_the_first_state_and_make_no_weights():
    config = small_config()
    before = compilations()
    shapes = shapes_of(config)
    assert compilations() == before
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    state = learner_lib.init_run_state(config, IMAGES)
    jax.tree.map(
        lambda shape, leaf: np.testing.assert_equal(
            (shape.shape, shape.dtype), (leaf.shape, leaf.dtype)
        ),
        shapes,
        state,
    )


def test_initial_weights_depend_on_the_seed_alone():
    def weights(**fields):
        state = learner_lib.init_run_state(small_config(**fields), IMAGES)
        return np.asarray(state.meta.params["linear"]["kernel"])

    np.testing.assert_array_equal(weights(), weights(**{"data.seed": 1, "train.epochs": 7}))
    assert not np.array_equal(weights(), weights(seed=1))


def test_the_uses_of_a_seed_have_keys_of_their_own():
    keys = [
        tuple(jax.random.key_data(learner_lib.stream_key(seed, stream)).tolist())
        for seed in (0, 1)
        for stream in learner_lib._STREAMS
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"train.inner_steps": 3}, "inner_steps", 3),
        ({"norm.train_statistics": "support"}, "statistics", "support"),
        ({"compute.remat": True}, "remat", True),
    ],
)
def test_the_configuration_sets_the_learner(fields, name, value):
    assert getattr(learner_lib.make_learner(small_config(**fields)), name) == value


@pytest.mark.parametrize(
    ("method", "affine", "statistics"),
    [
        ("maml", False, False),
        ("maml++", True, True),
        ("maml+bnrs", False, True),
        ("maml+bnwb", True, False),
    ],
)
def test_the_method_says_what_of_batch_norm_is_per_step(method, affine, statistics):
    made = learner_lib.make_learner(small_config(method))
    assert (made.per_step_affine, made.per_step_statistics) == (affine, statistics)


def test_weights_and_kinds_of_steps_follow_the_epoch():
    config = small_config(**{"train.multi_step_epochs": 2})
    plans = [learner_lib.epoch_plan(config, epoch) for epoch in range(3)]
    np.testing.assert_allclose(plans[0].weights, [0.5, 0.5])
    np.testing.assert_allclose(plans[1].weights, [0.25, 0.75])
    assert [plan.multi_step for plan in plans] == [True, True, False]
    assert [plan.order for plan in plans] == [1, 2, 2]


def test_the_hand_over_to_running_statistics_follows_the_epoch():
    config = small_config(**{"train.epochs": 4, "norm.hand_over": 0.5})
    plans = [learner_lib.epoch_plan(config, epoch) for epoch in range(4)]
    assert [float(plan.anneal) for plan in plans] == [0.0, 0.5, 1.0, 1.0]


def test_the_outer_rate_can_be_held_during_an_epoch():
    by_epoch = {"train.cosine_per": "epoch", "train.steps_per_epoch": 2}
    rate = learner_lib.outer_learning_rate(small_config("maml+ca", **by_epoch))
    rates = [float(rate(step)) for step in range(6)]
    assert rates[::2] == rates[1::2]
    assert len(set(rates)) == 3


@pytest.mark.parametrize(("per_step", "entries"), [(True, 2), (False, 1)])
def test_weights_have_a_rate_for_all_inner_steps_or_for_each(per_step, entries):
    config = small_config("metasgd", **{"inner.per_step": per_step})
    inner = learner_lib.init_run_state(config, IMAGES).meta.inner
    assert {leaf.shape[0] for leaf in jax.tree.leaves(inner)} == {entries}


def test_the_outer_optimizer_forgets_squares_as_the_configuration_says():
    gradient = {"a": np.array([2.0], np.float32)}
    optimizer = learner_lib.make_optimizer(small_config(**{"train.adam_b2": 0.9}))
    _, state = optimizer.update(gradient, optimizer.init(gradient))
    np.testing.assert_allclose(optax.tree.get(state, "nu")["a"], 0.1 * 4.0, rtol=1e-5)


def test_the_outer_rate_is_annealed_over_the_whole_run_or_constant():
    annealed, constant = map(
        learner_lib.outer_learning_rate, (small_config("maml+ca"), small_config("maml"))
    )
    assert [float(annealed(step)) for step in (0, 6)] == pytest.approx([1e-3, 1e-5])
    assert [float(constant(step)) for step in (0, 6)] == pytest.approx([1e-3, 1e-3])


def test_labels_are_smoothed_in_the_query_loss_alone():
    made = learner_lib.make_learner(small_config(**{"train.label_smoothing": 0.2}))
    sure, labels = jnp.array([[50.0, 0.0]]), jnp.array([0])
    assert float(made.inner_loss(sure, labels)) == pytest.approx(0.0, abs=1e-6)
    assert float(made.query_loss(sure, labels)) == pytest.approx(0.1 * 50.0)


def update_once(state, **fields):
    """A state after one outer update by a gradient of ones."""
    optimizer = learner_lib.make_optimizer(small_config(**fields))
    gradient = jax.tree.map(jnp.ones_like, state.meta)
    updates, opt_state = optimizer.update(gradient, optimizer.init(state.meta), state.meta)
    return state._replace(meta=optax.apply_updates(state.meta, updates), opt_state=opt_state)


def test_smoothing_needs_a_query_loss():
    with pytest.raises(ConfigError, match=r"'reptile'.* has no query loss to smooth"):
        validate(small_config("reptile", **{"train.label_smoothing": 0.1}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"train.clip_value": 10.0}, [3.0, -10.0]),
        ({"train.clip_norm": 1.0}, np.array([3.0, -40.0]) / np.hypot(3.0, 40.0)),
        ({}, [3.0, -40.0]),
    ],
)
def test_clipping_bounds_what_adam_sees(fields, expected):
    gradient = {"a": np.array([3.0, -40.0], np.float32)}
    optimizer = learner_lib.make_optimizer(small_config(**fields))
    _, state = optimizer.update(gradient, optimizer.init(gradient))
    first_moment = optax.tree.get(state, "mu")["a"]
    np.testing.assert_allclose(first_moment, 0.1 * np.asarray(expected), rtol=1e-5)


def test_a_backbone_without_what_is_to_be_adapted_is_refused_by_name():
    config = small_config("cavia", **{"model.name": "conv4"})
    with pytest.raises(
        ConfigError,
        match=r"inner\.adapts is 'context', .* 'conv4' has no such tensor .* conv0/bias",
    ):
        learner_lib.init_run_state(config, IMAGES)


class Headless(nn.Module):
    """A network whose last layer has another name than the head."""

    ways: int = 3

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.ways, name="out")(images.reshape(len(images), -1))


@pytest.mark.parametrize(
    ("method", "field"),
    [("protomaml", "init_theta"), ("metal", "loss"), ("metal_inductive", "loss")],
)
def test_a_backbone_without_the_head_that_a_method_needs_is_refused(method, field, monkeypatch):
    monkeypatch.setitem(BACKBONES, "headless", Backbone(Headless))
    config = small_config(method, **{"model.name": "headless", "model.filters": 64})
    with pytest.raises(
        ConfigError, match=rf"inner\.{field} needs a backbone .*='headless' has out;"
    ):
        learner_lib.init_run_state(config, IMAGES)


def test_a_start_that_is_no_function_is_refused(monkeypatch):
    monkeypatch.setitem(INIT_THETA, "five", InitialWeights(lambda ways: 5))
    config = small_config("maml")
    config.inner.init_theta = "five"
    with pytest.raises(ConfigError, match=r"inner\.init_theta is 'five', which makes a int"):
        learner_lib.make_learner(config)
