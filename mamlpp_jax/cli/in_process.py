"""Training, evaluating and predicting inside a Python process, as a notebook or another program does.

Nothing here ends the process, changes `jax.config` or logging, or leaves a signal handler behind.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.metrics import Predictions
from mamlpp_jax.algorithms.task import adapt_to, make_task
from mamlpp_jax.artifacts.results import Evaluation
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.cli.evaluation_flags import EVALUATION_FLAGS, changed_rotations, with_overrides
from mamlpp_jax.config.own_code import Code
from mamlpp_jax.distributed.mesh import replicate
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.inference.adaptation import adapt_members, query_outputs
from mamlpp_jax.inference.model import FewShotModel, from_runs
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.inference.saved_model import holds_model
from mamlpp_jax.inference.trained_run import TrainedRun, load_best
from mamlpp_jax.models.head import with_ways
from mamlpp_jax.training import final_evaluation
from mamlpp_jax.training.callbacks import Callback
from mamlpp_jax.training.experiment import Experiment, build_experiment
from mamlpp_jax.training.preemption import PreemptionHandler, StoppedError
from mamlpp_jax.types import Batch, Episode, MetaParams, MetaState, Params, RunningStats
from mamlpp_jax.utils.trees import entry


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a training or an evaluation.

    Attributes:
        config: the run's configuration, with the conditions of the test.
        evaluations: per statistics mode, of the ensemble of the best epochs and of the best epoch: accuracy (a
            fraction), its 95 % interval, loss and accuracy after 0..S inner steps.
        correct: correct query examples of each task, uint16 [T], by `Evaluation.key`.
        predictions: the ensemble's, under the first mode; None where a finished run was only looked up.
        members: the tested epochs, best first; each can be evaluated and predicted with.
        adapted: theta_S of the best epoch for each task, leaves [T, ...]; None where it was not asked for.
        workdir: folder of the run; None without one.

    Example:
        >>> [(each.model, each.tasks) for each in outcome.evaluations]
        [('ensemble', 20), ('best', 20)]
        >>> outcome.predictions.labels.shape, outcome.members[0].epoch
        ((20, 5), 0)
    """

    config: ConfigDict
    evaluations: Sequence[Evaluation]
    correct: Mapping[str, np.ndarray]
    predictions: Predictions | None
    members: Sequence[TrainedRun]
    adapted: Params | None = None
    workdir: pathlib.Path | None = None

    @property
    def accuracy(self) -> float:
        """Accuracy of the ensemble under the first statistics mode, a fraction; NaN of a supervised stage."""
        return self.evaluations[0].accuracy if self.evaluations else math.nan

    @property
    def ci95(self) -> float:
        """Half-width of its 95 % interval over tasks."""
        return self.evaluations[0].ci95 if self.evaluations else math.nan


def train(
    config: ConfigDict,
    workdir: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] = (),
    *,
    allow_code: bool = False,
    allow_code_change: bool = False,
) -> Outcome:
    """Trains and tests a configuration, as the command does, on the devices that JAX has here.

    Args:
        config: complete configuration. Parts that it names as "module:attribute" are imported.
        workdir: folder of the run, continued where it was begun; None to write no file.
        callbacks: hear of steps, epochs and the end.
        allow_code: whether code may be imported that the weights of `train.start_from` name.
        allow_code_change: whether a run may go on with other source than it began with.

    Raises:
        KeyboardInterrupt: Ctrl-C; with a workdir everything done is saved, and the same call goes on.
        MamlppError: bad input, or numbers gone bad.

    Example:
        >>> outcome = maml.train(config, home / "run")
        >>> outcome.accuracy > 1 / 5  # of five classes
        True
    """
    config = copy.deepcopy(config)
    config_lib.validate(config)
    opened = None if workdir is None else Workdir(pathlib.Path(workdir))
    preemption = PreemptionHandler()
    try:
        with preemption.noting_interrupts():
            tested = commands.train(
                config,
                opened,
                preemption,
                callbacks=callbacks,
                code=Code(allow_code, allow_code_change),
            )
    except StoppedError as error:
        raise KeyboardInterrupt(str(error)) from error
    if tested.experiment is None:
        assert opened is not None
        members = load_best(opened.path, config.evaluation.ensemble, allow_code=True)
    else:
        members = [_member(tested.experiment, state) for state in tested.states]
    outcome = Outcome(
        config=config,
        evaluations=tested.results["test"],
        correct=tested.correct,
        predictions=tested.predictions,
        members=members,
        workdir=None if opened is None else opened.path,
    )
    for callback in callbacks:
        callback.on_end(outcome)
    return outcome


def _member(experiment: Experiment, state: MetaState) -> TrainedRun:
    return TrainedRun(
        config=experiment.config,
        learner=experiment.learner,
        meta=final_evaluation.evaluated_meta(state),
        batch_stats=state.batch_stats,
        step=int(state.step),
        example_inputs=experiment.example_inputs,
    )


def evaluate(
    run: Outcome | TrainedRun | str | os.PathLike[str],
    episodes: Episode | None = None,
    *,
    adapted: bool = False,
    allow_code: bool = False,
    data_folder: str | os.PathLike[str] = "",
    **overrides: Any,
) -> Outcome:
    """Tests a trained run and writes nothing.

    Args:
        run: what `train` returned, what `load_run` returned, the working directory of a run, or the folder of an
            archived run or saved model.
        episodes: tasks to test on, leaves [T, ...]; None for the run's own test tasks.
        adapted: whether to return the adapted weights of every task.
        allow_code: whether parts of the run's own ("module:attribute" in its configuration) may be imported.
        data_folder: where the raw data of the run lie here, as `data.manual_dir`; "" for where they lay in training.
        **overrides: `way`, `shot`, `query`, `inner_steps`, `tasks`, `statistics`, `rotated`, as the flags of
            `--mode=evaluate`; with `episodes` the first three and `tasks` are theirs.

    Raises:
        ConfigError: an override is unknown or not allowed, or the run names code that is not allowed.
        WorkdirError: there is no such run.

    Example:
        >>> longer = maml.evaluate(outcome, inner_steps=3, tasks=10)
        >>> len(longer.evaluations[0].accuracy_per_step)  # after 0 to 3 steps
        4
    """
    members = _members(run, allow_code)
    if unknown := sorted(set(overrides) - set(EVALUATION_FLAGS)):
        raise ConfigError(
            f"{unknown[0]} is no condition of a test; there are {', '.join(EVALUATION_FLAGS)}."
        )
    if not isinstance(overrides.get("rotated", False), bool):
        raise ConfigError(f"rotated is {overrides['rotated']!r}; it must be True or False.")
    if episodes is not None:
        if "rotated" in overrides:
            raise ConfigError("rotated is given, but ready episodes are tested; leave it out.")
        overrides = {**overrides, **_conditions(members[0].config, episodes)}
    config = with_overrides(members[0].config, overrides, None)
    config.data.manual_dir = os.fspath(data_folder) or config.data.manual_dir
    config_lib.validate(config)
    tested = _experiment(config, episodes)
    states = []
    for member in members:
        meta, stats = replicate((member.meta, member.batch_stats), tested.mesh)
        states.append(MetaState(jnp.int32(member.step), meta, stats, ()))
    evaluations, queries, predictions = final_evaluation.run_test(
        tested, states, rotated=changed_rotations(members[0].config, config)
    )
    correct = {key: of.correct_per_task for key, of in queries.items()}
    weights = None
    if adapted:
        if episodes is None:
            episodes = tested.tasks["test"].episodes(config.evaluation.tasks)
        meta = with_ways(members[0].meta, config.task.way)
        weights = _adapted_weights(tested.learner, meta, members[0].batch_stats, episodes)
    return Outcome(config, evaluations, correct, predictions, members, weights)


def _members(
    run: Outcome | TrainedRun | str | os.PathLike[str], allow_code: bool
) -> Sequence[TrainedRun]:
    if isinstance(run, Outcome):
        return run.members
    if isinstance(run, TrainedRun):
        return [run]
    folder = pathlib.Path(run)
    if not holds_model(folder):
        count = Workdir(folder).config(allow_code=allow_code).evaluation.ensemble
        return load_best(folder, count, allow_code=allow_code)
    model = find_model(folder, allow_code=allow_code)
    config = ConfigDict(model.config)
    learner = model.learner(model.way)
    members = []
    for number, step in enumerate(model.steps):
        meta, batch_stats = entry((model.meta, model.batch_stats), number)
        members.append(TrainedRun(config, learner, meta, batch_stats, step, model.example_inputs))
    return members


def _conditions(config: ConfigDict, episodes: Episode) -> dict[str, int]:
    """The conditions that ready episodes have."""
    query = np.asarray(jax.tree.leaves(episodes.query.targets)[0])
    support = np.asarray(jax.tree.leaves(episodes.support.targets)[0])
    way = config.task.way
    if np.issubdtype(support.dtype, np.integer):
        way = max(2, int(support.max()) + 1)
    return {
        "tasks": query.shape[0],
        "way": way,
        "shot": max(1, support.shape[1] // way),
        "query": max(1, query.shape[1] // way),
    }


def _experiment(config: ConfigDict, episodes: Episode | None) -> Experiment:
    """The parts of a test on ready episodes, or on the run's own test tasks."""
    config = config_lib.with_default_compute(config)
    if episodes is None:
        data, _ = commands.load_everywhere(config, training=False)
        return build_experiment(config, data, ["test"])
    return build_experiment(config, episodes, ["test"])


@partial(jax.jit, static_argnums=0)
def _adapted_weights(
    learner: Learner, meta: MetaParams, batch_stats: RunningStats, episodes: Episode
) -> Params:
    def one(episode: Episode) -> Params:
        task = make_task(learner, meta, batch_stats, episode)
        return adapt_to(learner, task, order=1, unroll=1)[0]

    return lax.map(one, episodes)


def adapt_and_predict(
    model: TrainedRun | FewShotModel | Outcome,
    support: Batch,
    query_inputs: Any,
    *,
    statistics: str | None = None,
    inner_steps: int | None = None,
) -> Any:
    """Learns from a support set and predicts, for inputs of any kind, images that are ready for the backbone too.

    Args:
        model: a trained run, a saved model, or what `train` returned (all its members).
        support: inputs, leaves [N, ...], and labels, int [N], 0..K-1.
        query_inputs: leaves [M, ...].
        statistics: name of a mode of `mamlpp_jax.statistics`; None for the model's own.
        inner_steps: number of inner steps; None for as many as trained.

    Returns:
        Outputs of the backbone, the mean over the members: logits, [M, K], for a head of classes.

    Raises:
        ConfigError: the statistics mode is unknown.

    Example:
        >>> maml.adapt_and_predict(outcome, one_task.support, one_task.query.inputs).shape
        (5, 5)
    """
    if isinstance(model, Outcome):
        model = from_runs(list(model.members))
    elif isinstance(model, TrainedRun):
        model = from_runs([model])
    way = max(2, int(np.max(np.asarray(support.targets))) + 1)
    model = dataclasses.replace(
        model,
        statistics=statistics or model.statistics,
        inner_steps=inner_steps or model.inner_steps,
    )
    learner = model.learner(way)
    fitted = adapt_members(learner, None, way, model.meta, model.batch_stats, *support)
    return query_outputs(learner, None, fitted, query_inputs)
