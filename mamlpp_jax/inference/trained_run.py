"""Loading a trained run from its working directory, without its data set and without changing anything in it."""

from __future__ import annotations

import copy
import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from mamlpp_jax.algorithms.averaging import evaluated_meta
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.config import check_value, flatten
from mamlpp_jax.config.own_code import is_own
from mamlpp_jax.data.sampled_episodes import own_episodes
from mamlpp_jax.data.sources.registry import known_channels
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.training.checkpoint_access import read_checkpoints, report_state
from mamlpp_jax.training.checkpoints import CheckpointReader, quiet_orbax
from mamlpp_jax.training.learner import example_images, make_learner, state_shapes
from mamlpp_jax.types import MetaParams, MetaState, RunningStats


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A trained few-shot learner.

    Attributes:
        config: what it was trained with.
        learner: backbone and inner loop.
        meta: what the outer loop learned, or its average (`train.average_decay`); norm leaves [S, F] or [F],
            inner leaves [S, ...] or [1, ...].
        batch_stats: running statistics, leaves [S, F] or [F].
        step: outer steps taken.
        example_inputs: inputs of the backbone, leaves [N, ...], as arrays or shapes.

    Example:
        >>> run = outcome.members[0]
        >>> task = maml.make_task(run.learner, run.meta, run.batch_stats, one_task)
        >>> theta, trace = maml.adapt_to(run.learner, task, order=1)  # as in a loop of one's own
    """

    config: ConfigDict
    learner: Learner
    meta: MetaParams
    batch_stats: RunningStats
    step: int
    example_inputs: Any

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of its images, where its inputs are images."""
        return tuple(self.example_inputs.shape[1:])

    @property
    def epoch(self) -> int:
        """The epoch, from 0, that the last outer step belongs to."""
        return (self.step - 1) // self.config.train.steps_per_epoch


def load_run(
    workdir: str | os.PathLike[str],
    epoch: str | int = "best",
    conv: str = "auto",
    *,
    allow_code: bool = False,
) -> TrainedRun:
    """Loads a run from its working directory, read-only.

    The run may still be going on: then one of the whole checkpoints is taken, and a warning says of which step.

    Args:
        workdir: the folder that training wrote.
        epoch: "best" by validation accuracy so far (the latest whole checkpoint where no epoch is finished),
            "latest", or the number of an epoch, from 0, whose end was kept.
        conv: implementation of the convolutions, one of `ops.conv.IMPL_NAMES`: by default what suits this machine, not
            what suited that of the training. "xla" has forward-mode derivatives.
        allow_code: whether parts of the run's own ("module:attribute" in its configuration) may be imported.

    Returns:
        The run's learner and what it learned, on the default device. No weights are initialised and no data set
        is read.

    Raises:
        ConfigError: there is no such implementation of convolutions, or the run names code that is not allowed.
        WorkdirError: there is no such run or checkpoint, or it is damaged or of another version.

    Example:
        >>> run = maml.load_run(home / "run", epoch="latest", allow_code=True)
        >>> run.step
        100
    """
    return _load(workdir, lambda *opened: [_choose_step(epoch, *opened)], conv, allow_code)[0]


def load_best(
    workdir: str | os.PathLike[str], count: int, *, allow_code: bool = False
) -> list[TrainedRun]:
    """Loads a run's best epochs by validation accuracy, best first, or fewer where fewer were kept; see `load_run`."""

    def choose(checkpoints: CheckpointReader, config: ConfigDict, opened: Workdir) -> list[int]:
        undamaged = _undamaged_steps(checkpoints, opened)
        ranked = checkpoints.best_steps(len(undamaged))
        return [step for step in ranked if step in undamaged][:count] or undamaged[-1:]

    return _load(workdir, choose, allow_code=allow_code)


@quiet_orbax()
def _load(
    workdir: str | os.PathLike[str],
    choose: Callable[[CheckpointReader, ConfigDict, Workdir], list[int]],
    conv: str = "auto",
    allow_code: bool = False,
) -> list[TrainedRun]:
    check_value("model.conv", conv, "conv")
    opened = Workdir(pathlib.Path(workdir))
    config = opened.config(allow_code=allow_code)
    inputs = _example_inputs(opened, config)
    sharding = SingleDeviceSharding(jax.local_devices()[0])
    computed = copy.deepcopy(config)
    computed.model.conv = conv
    learner, shapes = make_learner(computed), state_shapes(config, inputs, sharding)

    def read(checkpoints: CheckpointReader) -> tuple[int, list[int], list[MetaState]]:
        steps = choose(checkpoints, config, opened)
        states = [checkpoints.restore(step, shapes) for step in steps]
        return checkpoints.steps()[-1], steps, states

    latest, steps, states = read_checkpoints(opened.path, read)
    report_state(opened.path, config, latest, steps)
    return [
        TrainedRun(config, learner, evaluated_meta(state), state.batch_stats, step, inputs)
        for step, state in zip(steps, states, strict=True)
    ]


def _example_inputs(opened: Workdir, config: ConfigDict) -> Any:
    if is_own(config.data.name):
        return own_episodes(dict(flatten(config))).example_inputs
    channels = opened.recorded_channels() or known_channels(config.data)
    if not channels:
        raise WorkdirError(
            f"{opened.data_file} does not say how many channels the images of the run have; restore that file."
        )
    return example_images((config.data.image_size, config.data.image_size, channels))


def _undamaged_steps(checkpoints: CheckpointReader, workdir: Workdir) -> list[int]:
    steps = checkpoints.steps()
    if not steps:
        raise checkpoints.lacking(
            f"the run in {workdir} has no whole checkpoint",
            "train it first, or wait for one",
        )
    return steps


def _choose_step(
    epoch: str | int, checkpoints: CheckpointReader, config: ConfigDict, workdir: Workdir
) -> int:
    steps = _undamaged_steps(checkpoints, workdir)
    if epoch == "latest":
        return steps[-1]
    if epoch == "best":
        return next(iter(checkpoints.best_steps(1)), steps[-1])
    per_epoch = config.train.steps_per_epoch
    ends = [step // per_epoch - 1 for step in steps if step % per_epoch == 0]
    if epoch not in ends:
        raise WorkdirError(
            f"epoch is {epoch!r}; the run in {workdir} kept {', '.join(map(str, ends)) or 'no epoch'}. Use one "
            'of these, "best" or "latest".'
        )
    return (int(epoch) + 1) * per_epoch
