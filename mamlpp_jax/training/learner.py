"""From a configuration alone to the learner, the outer optimizer and the first state; no data are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Sharding
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms import schedules
from mamlpp_jax.algorithms.averaging import average_weights
from mamlpp_jax.algorithms.inner_optimizers import InnerOptimizer, masked
from mamlpp_jax.algorithms.learner import InitTheta, Learner
from mamlpp_jax.algorithms.losses import CrossEntropy, InnerLoss, Loss
from mamlpp_jax.algorithms.outer_loop import init_state
from mamlpp_jax.config.own_code import is_own, one_line
from mamlpp_jax.config.parts import (
    ADAPTS,
    BACKBONES,
    INIT_THETA,
    INNER_LOSSES,
    INNER_OPTIMIZERS,
    OUTER_DIRECTIONS,
)
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.models import init_model, make_body_and_head, make_forward
from mamlpp_jax.models.head import HEAD, head_with_ways
from mamlpp_jax.models.layers import PerStepBatchNorm
from mamlpp_jax.types import Array, MetaState, Params, StepPlan

_STREAMS = {"init": 0, "train": 1, "val": 2, "test": 3, "drop": 4}


def stream_key(seed: int, stream: str) -> Array:
    """The random key of one use of a seed; the generator is fixed so that runs repeat everywhere."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _STREAMS[stream])


def make_learner(config: ConfigDict) -> Learner:
    """The backbone and inner loop of a configuration."""
    module = _module(config, _outputs(config))
    return Learner(
        forward=make_forward(module),
        inner_optimizer=_inner_optimizer(config),
        inner_steps=config.train.inner_steps,
        statistics=config.norm.train_statistics,
        per_step_affine=config.norm.per_step_affine,
        per_step_statistics=config.norm.per_step_statistics,
        running_decay=config.norm.running_decay,
        remat=config.compute.remat,
        inner_loss=_inner_loss(config),
        query_loss=CrossEntropy(config.train.label_smoothing),
        body_and_head=make_body_and_head(module),
        init_theta=_init_theta(config),
    )


def _inner_optimizer(config: ConfigDict) -> InnerOptimizer:
    chosen, adapts = INNER_OPTIMIZERS[config.inner.optimizer], ADAPTS[config.inner.adapts]
    optimizer: InnerOptimizer = chosen.make(dict(config_lib.flatten(config)))
    _check_part(optimizer, InnerOptimizer, "inner.optimizer", config.inner.optimizer)
    chooses = adapts.chooses
    if chooses is None:
        return optimizer
    some = masked(optimizer, lambda path: chooses(path, path.startswith(f"{HEAD}/")))

    def init(params: Params, num_steps: int) -> Any:
        try:
            return some.init(params, num_steps)
        except ValueError as error:
            raise ConfigError(
                f"config.inner.adapts is {config.inner.adapts!r}, and the backbone {config.model.name!r} has no such "
                f"tensor ({error}) Choose another of {', '.join(ADAPTS)}, or another model.name."
            ) from error

    return some._replace(init=init)


def _inner_loss(config: ConfigDict) -> Loss | InnerLoss:
    loss: Loss | InnerLoss = INNER_LOSSES[config.inner.loss].make(dict(config_lib.flatten(config)))
    if not callable(loss):
        _check_part(loss, InnerLoss, "inner.loss", config.inner.loss)
    return loss


def _check_part(part: Any, expected: type, field: str, name: str) -> None:
    if not isinstance(part, expected):
        raise ConfigError(
            f"config.{field} is {name!r}, which makes a {type(part).__name__}; it must make a {expected.__name__}."
        )


def _init_theta(config: ConfigDict) -> InitTheta:
    ways, chosen = config.task.way, INIT_THETA[config.inner.init_theta]
    init_theta: InitTheta = chosen.make(dict(config_lib.flatten(config)), ways=ways)
    if not callable(init_theta):
        raise ConfigError(
            f"config.inner.init_theta is {config.inner.init_theta!r}, which makes a {type(init_theta).__name__}; it "
            "must make a function (params, support set, features) -> theta_0."
        )
    if not config.model.shared_head:
        return init_theta
    return lambda params, support, features: init_theta(
        head_with_ways(params, ways), support, features
    )


def _outputs(config: ConfigDict) -> int:
    """The outputs of the backbone: the ways of a task, or all training classes."""
    if OUTER_DIRECTIONS[config.train.outer_gradient].all_classes:
        return int(config.data.train_classes * (4 if config.data.rotations else 1))
    return int(config.task.way)


def _module(config: ConfigDict, ways: int) -> nn.Module:
    values = dict(config_lib.flatten(config))
    if values["model.dtype"] == "float32":
        values["model.dtype"] = ""  # Nothing is rounded.
    module: nn.Module = BACKBONES[config.model.name].make(values, ways=ways)
    _check_part(module, nn.Module, "model.name", config.model.name)
    return module


def outer_learning_rate(config: ConfigDict) -> optax.Schedule:
    """The rate of the outer optimizer per outer step."""
    train = config.train
    return schedules.outer_learning_rate(
        train.learning_rate,
        train.final_learning_rate,
        config_lib.total_steps(config),
        train.cosine_annealing,
        held_steps=train.steps_per_epoch if train.cosine_per == "epoch" else 1,
    )


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Outer Adam with what the configuration puts before and after it."""
    train, parts = config.train, []
    if train.clip_value:
        parts.append(optax.clip(train.clip_value))
    if train.clip_norm:
        parts.append(optax.clip_by_global_norm(train.clip_norm))
    parts.append(optax.scale_by_adam(b1=train.adam_b1, b2=train.adam_b2))
    parts.append(optax.scale_by_learning_rate(outer_learning_rate(config)))
    if train.average_decay:
        parts.append(average_weights(train.average_decay))
    return optax.chain(*parts)


def example_images(image_shape: Sequence[int]) -> jax.ShapeDtypeStruct:
    """The inputs of a backbone for images (H, W, C), for `init_run_state`."""
    return jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)


def init_run_state(config: ConfigDict, example_inputs: Any) -> MetaState:
    """The state before the first outer step; may be traced, for shapes without weights.

    Example inputs are those of `models.init_model`; an own backbone that cannot take them is a `ConfigError`.
    """
    columns = 1 if config.model.shared_head else _outputs(config)
    module, key = _module(config, columns), stream_key(config.seed, "init")
    try:
        variables = init_model(module, key, example_inputs)
        if config.model.shared_head:
            head_with_ways(variables.params, columns)
    except Exception as error:
        if not is_own(config.model.name):
            raise
        raise ConfigError(
            f"config.model.name is {config.model.name!r}, which cannot be initialised on inputs of "
            f"{_shapes_text(example_inputs)} ({type(error).__name__}: {one_line(error)})."
        ) from error
    _check_head(config, variables.params)
    return init_state(make_learner(config), variables, make_optimizer(config))


def _check_head(config: ConfigDict, params: Params) -> None:
    """Checks that a backbone has the head that prototypes take the place of, or that an inner loss learns of."""
    needs = {
        "inner.init_theta": INIT_THETA[config.inner.init_theta].any_way,
        "inner.loss": INNER_LOSSES[config.inner.loss].of_outputs,
    }
    for field, needed in needs.items():
        if needed and HEAD not in params:
            raise ConfigError(
                f"config.{field} needs a backbone whose last layer is an nn.Dense with name={HEAD!r}, but config.model."
                f"name={config.model.name!r} has {', '.join(params)}; name its last layer so, or choose another method."
            )


def _shapes_text(inputs: Any) -> str:
    leaves = jax.tree.leaves(inputs)
    return " and ".join(f"{getattr(leaf, 'dtype', '?')} {list(leaf.shape)}" for leaf in leaves)


def activation_size(config: ConfigDict, example_inputs: Any) -> int:
    """How many numbers the layers of the backbone put out for one example; nothing is computed."""
    module = _module(config, _outputs(config))

    def computes(layer: nn.Module, method: str) -> bool:
        # Batch norm may be called with a convolution to compute.
        return method == ("_normalise" if isinstance(layer, PerStepBatchNorm) else "__call__")

    def outputs(images: Array) -> Any:
        key = stream_key(0, "init")
        return module.init(key, images, mutable=True, capture_intermediates=computes)[
            "intermediates"
        ]

    leaves = jax.tree.leaves(jax.eval_shape(outputs, example_inputs))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def state_shapes(config: ConfigDict, example_inputs: Any, sharding: Sharding) -> MetaState:
    """The shapes of a run's states as `jax.ShapeDtypeStruct`s; see `init_run_state`. No weights are made."""
    shapes = jax.eval_shape(lambda: init_run_state(config, example_inputs))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )


def plan_name(plan: StepPlan) -> str:
    """What tells compiled train functions apart, such as "order 1, multi-step loss"."""
    return f"order {plan.order}, {'multi-step' if plan.multi_step else 'last-step'} loss"


def epoch_plan(config: ConfigDict, epoch: int) -> StepPlan:
    """What the outer steps of one epoch, counted from 0, compute."""
    train = config.train
    multi_step = epoch < train.multi_step_epochs
    weights = (
        schedules.multi_step_weights(epoch, train.inner_steps, train.multi_step_epochs)
        if multi_step
        else np.zeros(train.inner_steps)
    )
    return StepPlan(
        weights=jnp.asarray(weights, jnp.float32),
        order=1 if epoch < train.first_order_epochs else 2,
        multi_step=multi_step,
        anneal=jnp.asarray(
            schedules.anneal(epoch, config.norm.hand_over * train.epochs), jnp.float32
        ),
    )
