"""The jitted functions of an experiment."""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Sequence

import jax

from mamlpp_jax.algorithms.evaluation import Evaluator, make_evaluator
from mamlpp_jax.algorithms.outer_loop import TrainStep, make_train_step, scan_steps
from mamlpp_jax.config.parts import BACKBONES, OUTER_DIRECTIONS
from mamlpp_jax.training.experiment import Experiment
from mamlpp_jax.training.learner import stream_key
from mamlpp_jax.utils.arithmetic import largest_divisor

_MAX_STEPS_PER_DISPATCH = {"cpu": 5}
_DEFAULT_STEPS_PER_DISPATCH = 50


def jitted_train_steps(experiment: Experiment, steps: int) -> TrainStep:
    """The jitted outer steps, `steps` of them per call; compiles once per (order, multi_step)."""
    config = experiment.config
    key = stream_key(config.seed, "drop") if BACKBONES[config.model.name].is_random else None
    one_step = make_train_step(
        experiment.learner,
        experiment.optimizer,
        experiment.tasks["train"].sample_tasks,
        tasks_per_step=config.train.tasks_per_step,
        tasks_per_chunk=experiment.tasks_per_chunk,
        mesh=experiment.mesh,
        gradient_function=OUTER_DIRECTIONS[config.train.outer_gradient].load(),
        key=key,
    )
    return jax.jit(scan_steps(one_step, steps), donate_argnums=0)


def steps_per_dispatch(experiment: Experiment, start_step: int) -> int:
    """Outer steps per call, a divisor of both the epoch and the step a run resumes from."""
    config = experiment.config
    usual = _MAX_STEPS_PER_DISPATCH.get(jax.default_backend(), _DEFAULT_STEPS_PER_DISPATCH)
    most_tasks = experiment.tasks["train"].tasks_per_window
    if most_tasks is not None:
        usual = min(usual, max(1, most_tasks // config.train.tasks_per_step))
    limit = config.compute.steps_per_dispatch or usual
    return largest_divisor(math.gcd(config.train.steps_per_epoch, start_step), limit)


def jitted_evaluator(
    experiment: Experiment, split: str, modes: Sequence[str], *, every_step: bool
) -> Evaluator:
    """The jitted evaluation of a split's tasks; see `algorithms.evaluation.make_evaluator`."""
    direction = OUTER_DIRECTIONS[experiment.config.train.outer_gradient]
    return make_evaluator(
        experiment.learner,
        experiment.tasks[split].sample_tasks,
        modes,
        tasks=experiment.config.evaluation.tasks,
        tasks_per_chunk=experiment.tasks_per_chunk,
        mesh=experiment.mesh,
        every_step=every_step,
        predict=pkgutil.resolve_name(direction.predict),
    )
