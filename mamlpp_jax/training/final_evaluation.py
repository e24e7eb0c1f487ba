"""The test at the end of a run, and later evaluations under other conditions."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms.evaluation import Predictions, ensemble, make_evaluator, score, with_ways
from mamlpp_jax.artifacts import workdir as workdir_lib
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.reports.results_page import results_page
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.experiment import Program
from mamlpp_jax.types import MetaState
from mamlpp_jax.utils.files import write_atomically, write_json


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What a model is tested under.

    Attributes:
        way: classes of a task.
        shot: support images per class.
        query: query images per class.
        inner_steps: S.
        statistics: the modes to report.
        data: the other data set that is tested on; "" for the run's own.
    """

    way: int
    shot: int
    query: int
    inner_steps: int
    statistics: tuple[str, ...]
    data: str = ""


def as_trained(config: ConfigDict) -> Conditions:
    """The conditions a run was trained under."""
    task = config.task
    return Conditions(
        way=task.way,
        shot=task.shot,
        query=task.query,
        inner_steps=config.train.inner_steps,
        statistics=config_lib.eval_statistics(config),
    )


def best_states(program: Program, checkpoints: Checkpoints) -> list[MetaState]:
    """The states of the best epochs, best first.

    Raises:
        WorkdirError: no epoch has been finished.
    """
    steps = [step for step in checkpoints.best_steps() if checkpoints.is_sound(step)]
    if not steps:
        raise WorkdirError("no epoch of this run has been finished; train before evaluating.")
    like = program.init_state()
    return [checkpoints.restore(step, like) for step in steps]


def run_test(
    program: Program,
    states: Sequence[MetaState],
    conditions: Conditions,
    between: Callable[[], None] = lambda: None,
) -> tuple[list[dict[str, Any]], Predictions]:
    """Tests the ensemble of the best epochs and the single best one on the fixed test tasks.

    Args:
        program: the parts, built for the task shape of `conditions`.
        states: best first.
        conditions: see `Conditions`.
        between: called before each model's evaluation; may raise to leave.

    Returns:
        Entries of `results.json`'s "test", per statistics mode the ensemble and the best epoch; and
        the ensemble's answers in the first mode.
    """
    rows, ensembles = [], []
    for mode in conditions.statistics:
        evaluate = make_evaluator(
            program.learner,
            program.draw,
            statistics=mode,
            inner_steps=conditions.inner_steps,
            tasks=program.config.evaluation.tasks,
            tasks_per_chunk=program.tasks_per_chunk,
            mesh=program.mesh,
        )
        answers = []
        for state in states:
            between()
            meta = with_ways(state.meta, conditions.way)
            answers.append(evaluate(meta, state.batch_stats, program.sources["test"]))
        ensembles.append(ensemble(answers))
        for model, answer in (("ensemble", ensembles[-1]), ("best", answers[0])):
            rows.append(_entry(program.config, model, mode, conditions, answer))
        logging.info(
            "test, %s statistics: %.2f ± %.2f %% (ensemble of %d)",
            mode,
            100 * rows[-2]["accuracy"],
            100 * rows[-2]["ci95"],
            len(states),
        )
    return rows, ensembles[0]


def _entry(
    config: ConfigDict, model: str, mode: str, conditions: Conditions, answer: Predictions
) -> dict[str, Any]:
    scores = score(answer)
    return {
        **({"data": conditions.data} if conditions.data else {}),
        "model": model,
        "train_statistics": config.norm.train_statistics,
        "eval_statistics": mode,
        "way": conditions.way,
        "shot": conditions.shot,
        "query": conditions.query,
        "inner_steps": conditions.inner_steps,
        "tasks": config.evaluation.tasks,
        "accuracy": scores.accuracy,
        "ci95": scores.ci95,
        "loss": scores.loss,
        "accuracy_per_step": scores.accuracy_per_step,
    }


def collect_results(
    workdir: pathlib.Path,
    program: Program,
    steps: int,
    states: Sequence[MetaState],
    rows: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The content of `results.json`: the run, earlier rows of other conditions, and new rows.

    Args:
        workdir: the run's.
        program: the run's.
        steps: outer steps done.
        states: what was tested, best first.
        rows: see `run_test`.
    """
    config = program.config
    best_epochs = [int(state.step) // config.train.steps_per_epoch - 1 for state in states]
    stored = workdir_lib.read_results(workdir) or {}
    fresh = {_identity(row) for row in rows}
    if stored.get("finished"):
        # An evaluation, perhaps elsewhere, adds rows; where and how the run was trained stays.
        kept = [row for row in stored["test"] if _identity(row) not in fresh]
        return {**stored, "test": kept + list(rows)}
    return {
        "experiment": config.experiment,
        "method": config.method,
        "seed": config.seed,
        "steps": steps,
        "finished": steps >= config_lib.total_steps(config),
        **workdir_lib.provenance(program.mesh.size),
        "config": config.to_dict(),
        "best_epochs": best_epochs,
        "test": list(rows),
    }


def write_results(workdir: pathlib.Path, results: dict[str, Any]) -> None:
    """Writes `results.md`, which shows the pictures that are there by then, and `results.json`."""
    write_atomically(workdir / "results.md", results_page(results, workdir).encode())
    write_json(workdir / workdir_lib.RESULTS_FILE, results)


_CONDITION_FIELDS = [
    "data",
    "model",
    "train_statistics",
    "eval_statistics",
    "way",
    "shot",
    "query",
    "inner_steps",
    "tasks",
]


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(field) for field in _CONDITION_FIELDS)


def is_tested(results: dict[str, Any] | None, config: ConfigDict) -> bool:
    """Whether a finished run has every test its configuration asks for."""
    if not results or not results.get("finished"):
        return False
    conditions = as_trained(config)
    own = (row for row in results["test"] if "data" not in row)
    rows = {(row["eval_statistics"], *_shape(row)) for row in own}
    asked = (conditions.way, conditions.shot, conditions.query, conditions.inner_steps)
    return all((mode, *asked) in rows for mode in conditions.statistics)


def _shape(row: dict[str, Any]) -> tuple[int, int, int, int]:
    return row["way"], row["shot"], row["query"], row["inner_steps"]
