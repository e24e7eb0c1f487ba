"""The test at the end of a run, and later evaluations under other conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms.averaging import evaluated_meta
from mamlpp_jax.algorithms.metrics import Predictions, ensemble, score
from mamlpp_jax.artifacts.predictions import QueryPredictions, make_predictions
from mamlpp_jax.artifacts.provenance import provenance
from mamlpp_jax.artifacts.results import Evaluation
from mamlpp_jax.config.parts import OUTER_DIRECTIONS
from mamlpp_jax.config.protocols import PROTOCOL_VERSION
from mamlpp_jax.data.pipeline import TaskStream
from mamlpp_jax.distributed import processes
from mamlpp_jax.models import with_ways
from mamlpp_jax.training.checkpoints import CheckpointReader
from mamlpp_jax.training.experiment import Experiment
from mamlpp_jax.training.jitted import jitted_evaluator
from mamlpp_jax.training.memory_checkpoints import MemoryCheckpoints
from mamlpp_jax.types import MetaState
from mamlpp_jax.utils.terminal import phase


def best_states(
    checkpoints: CheckpointReader | MemoryCheckpoints, count: int, like: MetaState
) -> list[MetaState]:
    """The states of at most `count` best epochs whose checkpoints are undamaged, best first, with shapes as `like`.

    Raises:
        WorkdirError: no epoch has been finished, or the checkpoints are damaged.
        ConfigError: another process sees other checkpoints.
    """
    steps = checkpoints.best_steps(count)
    processes.check_same(
        "the choice of the best checkpoints",
        [repr(steps).encode()],
        "Every process must see the same checkpoints, whole ones: look for a warning of a damaged one above.",
    )
    if not steps:
        raise checkpoints.lacking(
            "no epoch of this run has been finished and can be read", "train before evaluating"
        )
    return [checkpoints.restore(step, like) for step in steps]


def run_test(
    experiment: Experiment,
    states: Sequence[MetaState],
    *,
    data: str = "",
    rotated: str = "",
    before_each: Callable[[], None] = lambda: None,
) -> tuple[list[Evaluation], dict[str, QueryPredictions], Predictions | None]:
    """Tests the ensemble of the best epochs, best first, and the single best one on the fixed test tasks.

    Heads of another number of ways are fitted. `data` and `rotated` go into the rows, see `Evaluation`; `before_each`
    is called before each model's evaluation and may raise to leave.

    Returns:
        Per statistics mode the ensemble and the best epoch; for each of these, by its key, the prediction of
        each query image; and the ensemble's logits in the first mode.
    """
    config = experiment.config
    if OUTER_DIRECTIONS[config.train.outer_gradient].all_classes:
        return [], {}, None  # Runs that start from it are tested.
    modes, epochs = config_lib.eval_statistics(config), epochs_of(states, config)
    members = _predict(experiment, states, modes, before_each)
    ensembles = {mode: ensemble([member[mode] for member in members]) for mode in modes}
    stream, tasks = experiment.tasks["test"], config.evaluation.tasks
    names: Sequence[str] = [f"label {k}" for k in range(config.task.way)]
    classes, images = np.tile(np.arange(len(names)), (tasks, 1)), 0
    if isinstance(stream, TaskStream):
        names, (classes, _) = stream.class_names, stream.classes(range(tasks))
        images = int(np.sum(stream.host.source.sizes))
    results: list[Evaluation] = []
    queries: dict[str, QueryPredictions] = {}
    for mode in modes:
        both = (("ensemble", ensembles[mode], epochs), ("best", members[0][mode], epochs[:1]))
        for name, (logits, labels), tested in both:
            of = make_predictions(logits[:, -1], labels, classes, names)
            results.append(
                Evaluation(
                    model=name,
                    train_statistics=config.norm.train_statistics,
                    eval_statistics=mode,
                    **config.task.to_dict(),
                    inner_steps=config.train.inner_steps,
                    tasks=tasks,
                    data=data,
                    rotated=rotated,
                    epochs=tested,
                    classes=len(names) if images else 0,
                    images=images,
                    ci95_by_class=of.ci95_by_class() if images else 0.0,
                    **score(Predictions(logits, labels))._asdict(),
                )
            )
            queries[results[-1].key] = of
        averaged = results[-2]
        logging.info(
            "test, %s statistics: %.2f ± %.2f %% (ensemble of %d)",
            *(mode, 100 * averaged.accuracy, 100 * averaged.ci95, len(states)),
        )

    return results, queries, ensembles[modes[0]]


def _predict(
    experiment: Experiment,
    states: Sequence[MetaState],
    modes: Sequence[str],
    before_each: Callable[[], None],
) -> list[dict[str, Predictions]]:
    """The predictions of each state by mode."""
    evaluate = jitted_evaluator(experiment, "test", modes, every_step=True)
    predictions: list[dict[str, Predictions]] = []
    tested = f"{experiment.config.evaluation.tasks} tasks, {' and '.join(modes)} statistics"
    epochs = epochs_of(states, experiment.config)
    for number, (state, epoch) in enumerate(zip(states, epochs, strict=True), 1):
        before_each()
        meta = with_ways(evaluated_meta(state), experiment.config.task.way)
        with phase(
            f"{'' if predictions else 'compiling the evaluation, '}testing epoch {epoch + 1} ({number} of "
            f"{len(states)}) on {tested}"
        ) as report:
            predictions.append(evaluate(meta, state.batch_stats, experiment.tasks["test"], report))
    return predictions


def try_inner_steps(experiment: Experiment, best: MetaState) -> list[float]:
    """Accuracy of the best epoch on the validation tasks after 0 to `evaluation.most_inner_steps`; [] for no more."""
    config = experiment.config
    most, mode = config.evaluation.most_inner_steps, config_lib.eval_statistics(config)[0]
    all_classes = OUTER_DIRECTIONS[config.train.outer_gradient].all_classes
    if most <= config.train.inner_steps or all_classes:
        return []
    longer = dataclasses.replace(experiment.learner, inner_steps=most)
    changed = dataclasses.replace(experiment, learner=longer)
    evaluate = jitted_evaluator(changed, "val", [mode], every_step=True)
    with phase(f"trying up to {most} inner steps on the validation tasks") as report:
        meta, stream = evaluated_meta(best), experiment.tasks["val"]
        predictions = evaluate(meta, best.batch_stats, stream, report)[mode]
    return score(predictions).accuracy_per_step


def epochs_of(states: Sequence[MetaState], config: ConfigDict) -> list[int]:
    """The epochs, from 0, whose ends the states are."""
    return [int(state.step) // config.train.steps_per_epoch - 1 for state in states]


def collect_results(
    config: ConfigDict,
    stored: dict[str, Any] | None,
    states: Sequence[MetaState],
    tests: Sequence[Evaluation],
    *,
    steps: int,
    devices: int,
    of_training: bool = False,
) -> dict[str, Any]:
    """The content of `results.json`: the run, earlier tests under other conditions, and new ones.

    `states` are the tested ones, best first. `of_training` is set for the test of the command that trained the run: its
    machine and code are the run's.
    """
    earlier: list[Evaluation] = []
    if stored and stored.get("finished"):
        fresh = [test.conditions for test in tests]
        earlier = [test for test in stored["test"] if test.conditions not in fresh]
        if not of_training:
            # An evaluation, perhaps elsewhere, adds tests; where and how the run was trained stays.
            return {**stored, "test": [*earlier, *tests]}
    return {
        "experiment": config.experiment,
        "method": config.method,
        "protocol": config.protocol,
        "protocol_version": PROTOCOL_VERSION,
        "seed": config.seed,
        "steps": steps,
        "finished": steps >= config_lib.total_steps(config),
        **provenance(devices),
        "config": config.to_dict(),
        "best_epochs": epochs_of(states, config),
        "test": [*earlier, *tests],
    }


def is_tested(results: dict[str, Any] | None, config: ConfigDict) -> bool:
    """True for a finished run with every test its configuration asks for."""
    if not results or not results.get("finished"):
        return False
    if OUTER_DIRECTIONS[config.train.outer_gradient].all_classes:
        return True  # A supervised stage is not tested.
    task, steps = config.task, config.train.inner_steps
    tested = {
        (test.eval_statistics, test.way, test.shot, test.query, test.inner_steps, test.tasks)
        for test in results["test"]
        if not test.data
    }
    return all(
        (mode, task.way, task.shot, task.query, steps, config.evaluation.tasks) in tested
        for mode in config_lib.eval_statistics(config)
    )
