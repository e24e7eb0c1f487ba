"""The text of a dry run: shapes, parameter counts, memory and schedule."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.config.own_code import is_own
from mamlpp_jax.training.experiment import Experiment
from mamlpp_jax.training.jitted import jitted_train_steps, steps_per_dispatch
from mamlpp_jax.training.learner import epoch_plan, plan_name
from mamlpp_jax.training.memory import estimate
from mamlpp_jax.utils.memory import memory_text
from mamlpp_jax.utils.terminal import phase
from mamlpp_jax.utils.trees import named_leaves

_MIB = 2**20


def count_parameters(tree: Any) -> int:
    """Number of numbers in a pytree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def describe_model(experiment: Experiment) -> str:
    """Shapes and parameter counts of everything the outer loop learns."""
    meta = experiment.state_shapes().meta
    lines = []
    for group, tree in meta._asdict().items():
        lines.append(f"{group}: {count_parameters(tree):,} numbers")
        for name, leaf in named_leaves(tree).items():
            lines.append(f"  {name:<16} {'x'.join(map(str, leaf.shape))}")
    lines.append(f"all meta-parameters: {count_parameters(meta):,}")
    return "\n".join(lines)


def describe_briefly(experiment: Experiment) -> str:
    """A few lines for the start of a run."""
    config = experiment.config
    counts = ", ".join(
        f"{stream.num_classes} {split}" for split, stream in experiment.tasks.items()
    )
    task, learned = config.task, count_parameters(experiment.state_shapes().meta)
    return (
        f"{config.experiment}, {config.method}, seed {config.seed}: {config.train.epochs} epochs of "
        f"{config.train.steps_per_epoch} outer steps\n"
        f"{task.way}-way {task.shot}-shot tasks of {config.data.name} ({counts} classes), "
        f"{config.train.inner_steps} inner steps, {learned:,} meta-parameters (--dry_run lists them)\n"
        f"{describe_devices(experiment)}"
    )


def describe_devices(experiment: Experiment) -> str:
    """Devices and how the tasks of an outer step are laid out on them."""
    device, tasks = experiment.mesh.devices.flat[0], experiment.config.train.tasks_per_step
    kind = device.device_kind
    kind += f" ({device.platform})" if kind != device.platform else ""
    processes = len({device.process_index for device in experiment.mesh.devices.flat})
    together = f" in {processes} processes" if processes > 1 else ""
    return (
        f"{experiment.mesh.size} x {kind}{together}, JAX {jax.__version__}: "
        f"{tasks} tasks per outer step, {tasks // experiment.mesh.size} per device, "
        f"{experiment.tasks_per_chunk} at a time"
    )


def describe_schedule(experiment: Experiment) -> str:
    """Ranges of epochs that run the same compiled function, and the outer rate at their ends."""
    config, lines = experiment.config, []
    per_epoch = config.train.steps_per_epoch
    for epochs in _epochs_by_function(config):
        plan = epoch_plan(config, epochs[0])
        begin, end = epochs[0] * per_epoch, (epochs[-1] + 1) * per_epoch
        rates = (float(experiment.learning_rate(step)) for step in (begin, end))
        lines.append(
            f"epochs {epochs[0]}-{epochs[-1]} (outer steps {begin + 1}-{end}): {plan_name(plan)}, "
            f"outer rate {' -> '.join(f'{rate:.2e}' for rate in rates)}"
        )
    return "\n".join(lines)


def _epochs_by_function(config: ConfigDict) -> list[list[int]]:
    def function(epoch: int) -> tuple[int, bool]:
        plan = epoch_plan(config, epoch)
        return plan.order, plan.multi_step

    return [list(group) for _, group in itertools.groupby(range(config.train.epochs), function)]


def describe_memory(experiment: Experiment) -> str:
    """The compiler's estimate of device memory for each train function the run meets."""
    config = experiment.config
    steps = steps_per_dispatch(experiment, 0)
    train_steps = jitted_train_steps(experiment, steps)
    source = experiment.tasks["train"].window(range(steps), range(config.train.tasks_per_step))
    lines = []
    for epochs in _epochs_by_function(config):
        plan = epoch_plan(config, epochs[0])
        with phase(f"compiling the training function ({plan_name(plan)}), for its memory"):
            lowered = train_steps.lower(experiment.state_shapes(), source, plan)  # type: ignore[attr-defined]
            memory = lowered.compile().memory_analysis()
        lines.append(
            f"{plan_name(plan)}: {memory.temp_size_in_bytes / _MIB:,.0f} MiB working, "
            f"{memory.argument_size_in_bytes / _MIB:,.0f} MiB data and state, per device"
        )
    return "\n".join(lines)


def describe(experiment: Experiment) -> str:
    """The text that `--dry_run` prints of a training."""
    steps = config_lib.total_steps(experiment.config)
    sections = _describe_tasks(experiment) | {
        "Learned by the outer loop": describe_model(experiment),
        f"Schedule ({steps:,} outer steps)": describe_schedule(experiment),
        "Memory": describe_memory(experiment),
    }
    return _joined(sections)


def describe_test(experiment: Experiment) -> str:
    """The text that `--dry_run` prints of an evaluation; compiles nothing."""
    config = experiment.config
    memory = "not estimated for own data"
    if not is_own(config.data.name):
        needed = estimate(config, experiment.example_inputs.shape[-1], training=False)
        memory = "\n".join(f"{part}: {memory_text(size)} or more" for part, size in needed.items())
    sections = _describe_tasks(experiment) | {
        "Test": (
            f"{config.evaluation.tasks:,} tasks; the ensemble of at most {config.evaluation.ensemble} best epochs, "
            f"and the best one; statistics: {', '.join(config_lib.eval_statistics(config))}"
        ),
        "Memory": memory,
    }
    return _joined(sections)


def _inputs_text(experiment: Experiment) -> str:
    """Shapes of one example."""
    leaves = jax.tree.leaves(experiment.example_inputs)
    return ", ".join("x".join(map(str, leaf.shape[1:])) or str(leaf.dtype) for leaf in leaves)


def _joined(sections: dict[str, str]) -> str:
    return "\n\n".join(f"{title}\n{text}" for title, text in sections.items())


def _describe_tasks(experiment: Experiment) -> dict[str, str]:
    config = experiment.config
    on_host = any(stream.on_host for stream in experiment.tasks.values())
    counts = ", ".join(
        f"{split} {stream.num_classes} classes" for split, stream in experiment.tasks.items()
    )
    task = config.task
    return {
        "Devices": describe_devices(experiment),
        "Data": (
            f"{config.data.name}, {_inputs_text(experiment)}: {counts}; on the "
            f"{'host' if on_host else 'devices'} (data.device_limit_mib="
            f"{config.data.device_limit_mib})"
        ),
        "Tasks": (
            f"{task.way}-way {task.shot}-shot: {task.way * task.shot} support and "
            f"{task.way * task.query} query images, {config.train.inner_steps} inner steps"
        ),
    }
