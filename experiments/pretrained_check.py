"""Compares a saved model's accuracy through `FewShotClassifier` with `--mode=evaluate` of the run it was made from.

    python -m experiments.pretrained_check --model=omniglot --workdir=runs/pretrained/omniglot-support

Both test the same weights on the same tasks, by code of their own. Exit codes: 0 they agree to 0.1 points; 1 they do
not; 2 bad input.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

import numpy as np

from experiments.pretrained_card import accuracies, test_episodes
from mamlpp_jax.artifacts.results import TestResult
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.cli.flags import fail
from mamlpp_jax.errors import MamlppError, ModelError
from mamlpp_jax.inference.classifier import FewShotClassifier
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.reports.tables import text_table

TOLERANCE = 1e-3
_STATISTICS = "support"


def compare(
    model: str | pathlib.Path, workdir: Workdir, way: int, shot: int, tasks: int
) -> dict[str, Any]:
    """Tests both on the same tasks; an evaluation that the run has not got yet is added to its results.

    Args:
        model: as in `find_model`.
        workdir: of its run.
        way: classes of a task.
        shot: support images per class.
        tasks: how many.

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
    polarity = "light_on_dark" if saved.image_format.polarity else None  # as data sets have it
    clf = FewShotClassifier(saved.first_members(1), statistics=_STATISTICS, polarity=polarity)
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


def _find_row(workdir: Workdir, wanted: dict[str, Any]) -> TestResult | None:
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
    found = [test for test in (results or {"test": []})["test"] if test.epochs]
    return next((t for t in found if t.conditions | same == t.conditions), None)


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="name or folder of the saved model")
    parser.add_argument("--workdir", required=True, help="the run that it was made from")
    parser.add_argument("--tasks", type=int, default=600, help="how many test tasks")
    parser.add_argument("--kinds", default="5x1,20x1", help="of tasks, WAYxSHOT")
    given = parser.parse_args()
    try:
        kinds = [tuple(map(int, kind.split("x"))) for kind in given.kinds.split(",")]
        workdir = Workdir(given.workdir)
        rows = [compare(given.model, workdir, way, shot, given.tasks) for way, shot in kinds]
    except MamlppError as error:
        fail(str(error))
    print(text_table(rows))
    if any(abs(row["classifier"] - row["evaluate"]) > TOLERANCE for row in rows):
        sys.exit("error: the two differ by more than 0.1 points.")


if __name__ == "__main__":
    _main()
