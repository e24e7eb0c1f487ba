"""Compares a saved model's accuracy through `FewShotClassifier` with `--mode=evaluate` of the run it was made from.

    python -m experiments.pretrained_check --model=omniglot --workdir=runs/pretrained/omniglot-support

Both test the same weights on the same tasks, by code of their own. Exit codes: 0 they agree to 0.1 points; 1 they do
not; 2 bad input.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import numpy as np
from absl import flags

from experiments.command_line import run_main
from experiments.pretrained_card import accuracies, data_classifier, test_episodes
from mamlpp_jax.artifacts.results import Evaluation
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.errors import ConfigError, ModelError
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.reports.tables import text_table

TOLERANCE = 1e-3
_STATISTICS = "support"
_TASKS = ((5, 1), (20, 1))  # (way, shot)


def compare(
    model: str | pathlib.Path, workdir: Workdir, way: int, shot: int, tasks: int
) -> dict[str, Any]:
    """Tests both on the same tasks; an evaluation that the run has not got yet is added to its results.

    Returns:
        "classifier" and "evaluate", accuracies as fractions, and on how many tasks the two differ.

    Raises:
        ModelError: the model is not the run's best epoch.
    """
    config, saved = workdir.config(), find_model(model)
    wanted = {"way": way, "shot": shot, "tasks": tasks, "statistics": _STATISTICS}
    row = _find_row(workdir, wanted)
    if row is None:
        commands.evaluate(
            commands.resolve_config("evaluate", None, workdir, wanted), workdir, wanted
        )
        row = _find_row(workdir, wanted)
    assert row is not None
    (epoch,) = row.epochs
    if saved.steps[0] != (epoch + 1) * config.train.steps_per_epoch:
        raise ModelError(
            f"{model} was trained for {saved.steps[0]} outer steps, but the run in {workdir} was tested at the end of "
            f"epoch {epoch}, from 0; compare the model of that run's best epoch."
        )
    clf = data_classifier(saved.first_members(1), _STATISTICS)
    ours = accuracies(clf, test_episodes(config, way, shot, tasks))
    theirs = workdir.correct_per_task()[row.key] / (way * row.query)
    return {
        "way": way,
        "shot": shot,
        "tasks": tasks,
        "classifier": float(ours.mean()),
        "evaluate": float(theirs.mean()),
        "tasks that differ": int((np.abs(ours - theirs) > 1e-6).sum()),
    }


def _find_row(workdir: Workdir, wanted: dict[str, Any]) -> Evaluation | None:
    """The run's test of its best epoch under these conditions, if its results say which epoch that was."""
    config, results = workdir.config(), workdir.results()
    same = {
        "model": "best",
        "eval_statistics": wanted["statistics"],
        "query": config.task.query,
        "inner_steps": config.train.inner_steps,
        "data": "",
        **{name: wanted[name] for name in ("way", "shot", "tasks")},
    }
    tests = [test for test in (results or {"test": []})["test"] if test.epochs]
    return next((t for t in tests if t.conditions | same == t.conditions), None)


def _define_flags() -> None:
    flags.DEFINE_string("model", "", "Name or folder of the saved model.")
    flags.DEFINE_string("workdir", "", "The run that it was made from.")
    flags.DEFINE_integer("tasks", 600, "How many test tasks.", lower_bound=2)


def _main() -> int:
    given = flags.FLAGS
    if not (given.model and given.workdir):
        raise ConfigError("--model and --workdir must say what to compare; see --help.")
    workdir = Workdir(given.workdir)
    rows = [compare(given.model, workdir, way, shot, given.tasks) for way, shot in _TASKS]
    print(text_table(rows))
    if any(abs(row["classifier"] - row["evaluate"]) > TOLERANCE for row in rows):
        print("error: the two differ by more than 0.1 points.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    _define_flags()
    run_main(_main)
