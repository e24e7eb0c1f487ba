"""What a run would do: shapes, parameter counts, memory and schedule."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from mamlpp_jax import config as config_lib
from mamlpp_jax.training.experiment import Program
from mamlpp_jax.training.trainer import (
    EpochPlan,
    compiled_train_steps,
    epoch_plan,
    steps_per_dispatch,
)

_MIB = 2**20


def count_parameters(tree: Any) -> int:
    """Numbers in a pytree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def describe_model(program: Program) -> str:
    """Shapes and parameter counts of everything the outer loop learns."""
    meta = jax.eval_shape(program.initial_values).meta
    lines = []
    for group, tree in meta._asdict().items():
        lines.append(f"{group}: {count_parameters(tree):,} numbers")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = "/".join(str(part.key) for part in path)
            lines.append(f"  {name:<16} {'x'.join(map(str, leaf.shape))}")
    lines.append(f"all meta-parameters: {count_parameters(meta):,}")
    return "\n".join(lines)


def describe_devices(program: Program) -> str:
    """Devices and how the tasks of an outer step are laid out on them."""
    device, tasks = program.mesh.devices.flat[0], program.config.train.tasks_per_step
    processes = len({device.process_index for device in program.mesh.devices.flat})
    together = f" in {processes} processes" if processes > 1 else ""
    return (
        f"{program.mesh.size} x {device.device_kind} ({device.platform}){together}, JAX "
        f"{jax.__version__}: "
        f"{tasks} tasks per outer step, {tasks // program.mesh.size} per device, "
        f"{program.tasks_per_chunk} at a time"
    )


def describe_schedule(program: Program) -> str:
    """Stretches of epochs that run the same compiled function, and the outer rate at their ends."""
    config, lines = program.config, []
    per_epoch = config.train.steps_per_epoch
    for plans in _stretches(config):
        first, last = plans[0].epoch, plans[-1].epoch
        begin, end = first * per_epoch, (last + 1) * per_epoch
        rates = (float(program.learning_rate(step)) for step in (begin, end))
        loss = "multi-step loss" if plans[0].multi_step else "last-step loss"
        lines.append(
            f"epochs {first}-{last} (outer steps {begin + 1}-{end}): order {plans[0].order}, {loss}, "
            f"outer rate {' -> '.join(f'{rate:.2e}' for rate in rates)}"
        )
    return "\n".join(lines)


def _stretches(config: Any) -> Iterator[list[EpochPlan]]:
    plans = (epoch_plan(config, epoch) for epoch in range(config.train.epochs))
    for _, group in itertools.groupby(plans, lambda plan: (plan.order, plan.multi_step)):
        yield list(group)


def describe_memory(program: Program) -> str:
    """The compiler's estimate of device memory for each train function the run meets."""
    config = program.config
    steps = steps_per_dispatch(config, 0, program.most_steps_ready)
    train_steps = compiled_train_steps(program, steps)
    source = program.ready("train", range(steps), range(config.train.tasks_per_step))
    state = jax.eval_shape(program.initial_values)
    lines = []
    for plans in _stretches(config):
        plan = plans[0]
        compiled = train_steps.lower(  # type: ignore[attr-defined]
            state,
            source,
            plan.weights,
            order=plan.order,
            multi_step=plan.multi_step,
        ).compile()
        memory = compiled.memory_analysis()
        loss = "multi-step" if plan.multi_step else "last-step"
        lines.append(
            f"order {plan.order}, {loss} loss: {memory.temp_size_in_bytes / _MIB:,.0f} MiB working, "
            f"{memory.argument_size_in_bytes / _MIB:,.0f} MiB data and state, per device"
        )
    return "\n".join(lines)


def describe(program: Program) -> str:
    """Everything `--dry_run` prints."""
    config = program.config
    sources = ", ".join(
        f"{split} {len(source.starts) * (4 if config.data.rotations else 1)} classes"
        for split, source in program.sources.items()
    )
    task = config.task
    high, wide, channels = program.image_shape
    sections = {
        "Devices": describe_devices(program),
        "Data": (
            f"{config.data.name}, {high}x{wide}x{channels}: {sources}; on the "
            f"{'host' if program.on_host else 'devices'} (data.device_limit_mib="
            f"{config.data.device_limit_mib})"
        ),
        "Tasks": (
            f"{task.way}-way {task.shot}-shot: {task.way * task.shot} support and "
            f"{task.way * task.query} query images, {config.train.inner_steps} inner steps"
        ),
        "Learned by the outer loop": describe_model(program),
        f"Schedule ({config_lib.total_steps(config):,} outer steps)": describe_schedule(program),
        "Memory": describe_memory(program),
    }
    return "\n\n".join(f"{title}\n{text}" for title, text in sections.items())
