"""An estimate of a run's memory, from shapes, before anything is read, made or compiled."""

from __future__ import annotations

import copy
import math
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.config.parts import ADAPTS, OUTER_DIRECTIONS
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training.learner import activation_size, example_images, state_shapes
from mamlpp_jax.types import MetaState
from mamlpp_jax.utils.memory import host_memory, memory_text

_FLOAT = 4  # bytes
# Numbers that a pass stores per number of activation, at least. Compared with the compiler's own figures for the cases
# of experiments/results the estimates are a seventh to a half, so that nothing is refused that fits.
_SUPPORT_FIRST, _SUPPORT_SECOND = 0.9, 1.8  # in second order every inner step stores its own
_QUERY = 0.25
_PREDICTION = 0.25  # without a gradient
_SIZE_FIELDS = (
    "model.filters",
    "data.image_size",
    "task.way",
    "task.shot",
    "task.query",
    "train.inner_steps",
    "train.tasks_per_step",
    "compute.tasks_per_chunk",
    "evaluation.tasks",
    "evaluation.ensemble",
    "train.epochs",
    "train.steps_per_epoch",
)


def check_memory(config: ConfigDict, channels: int, *, training: bool = True) -> None:
    """Checks that a training, or an evaluation, fits into the memory of this machine and of its devices.

    A `ConfigError` names the fields that make it large, and its large parts.
    """
    device = jax.local_devices()[0]
    limit, place = (device.memory_stats() or {}).get("bytes_limit", 0), f"a {device.device_kind}"
    if not limit:  # it has no memory of its own
        limit, place = host_memory(), "this machine"
    parts = estimate(config, channels, training=training)
    needed = sum(parts.values())
    if not limit or needed <= limit:
        return
    fields = _large_fields(config, channels, needed, training)
    values = dict(config_lib.flatten(config))
    large = ", ".join(f"config.{field}={values[field]}" for field in fields)
    sizes = [
        f"{memory_text(size)} for {part}" for part, size in parts.items() if size > needed / 20
    ]
    remat = training and not config.compute.remat
    raise ConfigError(
        f"this needs {memory_text(needed)} of memory or more, but {place} has {memory_text(limit)}: "
        f"{', '.join(sizes)}. It is large because of {large}; use smaller values"
        f"{', or config.compute.remat=True for many inner steps' if remat else ''}."
    )


def estimate(config: ConfigDict, channels: int, *, training: bool = True) -> dict[str, int]:
    """Bytes that a run needs at least on one device, by their purpose; nothing is allocated.

    Those of the test, or where it is trained those of training if they are more.
    """
    size = config.data.image_size
    shape = (size, size, channels)
    inputs = example_images(shape)
    state = state_shapes(config, inputs, SingleDeviceSharding(jax.local_devices()[0]))
    per_image = activation_size(config, inputs) * _FLOAT
    needs = [_of_test(config, shape, state, per_image)]
    if training:
        needs.append(_of_training(config, shape, state, per_image))
    return max(needs, key=lambda parts: sum(parts.values()))


def _of_training(
    config: ConfigDict, shape: tuple[int, ...], state: MetaState, per_image: int
) -> dict[str, int]:
    train, (support, query) = config.train, _images_per_task(config)
    of_query_loss = OUTER_DIRECTIONS[train.outer_gradient].of_query_loss
    second_order = train.first_order_epochs < train.epochs and of_query_loss
    # ANIL computes its features once; per step it stores those of the head, which are few.
    fixed_body = not (ADAPTS[config.inner.adapts].body or config.norm.per_step_affine)
    stored_steps = 1 if config.compute.remat or fixed_body else train.inner_steps
    in_support = (_SUPPORT_SECOND * stored_steps if second_order else _SUPPORT_FIRST) * support
    in_query = _QUERY * query * (stored_steps if train.multi_step_epochs else 1)
    adapted = _bytes(state.meta.params) * (stored_steps if second_order else 1)
    task = (support + query) * math.prod(shape) * _FLOAT + adapted
    task += per_image * int(in_support + in_query)
    return {
        "the parameters, their gradient and the optimizer's state": _bytes(state)
        + _bytes(state.meta),
        "what is computed of a task": _tasks_together(config) * task,
        "the learning rates of all outer steps": config_lib.total_steps(config) * 3 * _FLOAT,
    }


def _of_test(
    config: ConfigDict, shape: tuple[int, ...], state: MetaState, per_image: int
) -> dict[str, int]:
    support, query = _images_per_task(config)
    members = min(config.evaluation.ensemble, config.train.epochs)
    task = (support + query) * math.prod(shape) * _FLOAT
    task += int(_PREDICTION * per_image * max(support, query))
    logits = (config.train.inner_steps + 1) * query * config.task.way * _FLOAT
    return {
        "the parameters of the epochs that are tested": members * _bytes(state.meta),
        "what is computed of a task": _tasks_together(config) * task,
        # Every member's and their mean's.
        "the predictions on the test tasks": config.evaluation.tasks * logits * (members + 1),
    }


def _images_per_task(config: ConfigDict) -> tuple[int, int]:
    """Support and query images of a task."""
    return config.task.way * config.task.shot, config.task.way * config.task.query


def _tasks_together(config: ConfigDict) -> int:
    """Tasks that one device computes at once, at least."""
    if config.compute.tasks_per_chunk or jax.default_backend() == "cpu":
        return int(config.compute.tasks_per_chunk or 1)
    return max(1, config.train.tasks_per_step // (config.compute.devices or jax.device_count()))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _large_fields(config: ConfigDict, channels: int, needed: int, training: bool) -> list[str]:
    """The fields whose default would halve the needs; where none would alone, those above their default."""
    values = dict(config_lib.flatten(config))
    defaults = dict(config_lib.flatten(config_lib.default_config()))
    above = [field for field in _SIZE_FIELDS if values[field] > defaults[field]]

    def needed_without(field: str) -> int:
        changed = copy.deepcopy(config)
        changed.update_from_flattened_dict({field: defaults[field]})
        return sum(estimate(changed, channels, training=training).values())

    return [field for field in above if needed_without(field) < needed / 2] or above
