"""Predictions of tests: kept beside the results, joined by later evaluations, never in their way."""

import csv
import json
import re

import numpy as np
import pytest

from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.utils.arithmetic import student_t95
from tests.helpers.small_runs import patterns, small_config

CONFIG = {
    "norm.eval_statistics": "batch,support",
    "task.query": 2,
    "train.epochs": 1,
    "evaluation.most_inner_steps": 4,
}

# In one process, so that the run is made once.
pytestmark = pytest.mark.xdist_group("per_task")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = Workdir(tmp_path_factory.mktemp("runs") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "load_dataset", lambda data: patterns())
        commands.train(small_config(**CONFIG), folder)
    return folder


@pytest.fixture(autouse=True)
def _use_patterns(monkeypatch):
    monkeypatch.setattr(commands, "load_dataset", lambda data: patterns())


def check(workdir):
    """Every accuracy and interval follows from the file; returns the tasks of the rows."""
    results, correct = workdir.results(), workdir.correct_per_task()
    assert list(correct) == [test.key for test in results["test"]]
    for test in results["test"]:
        accuracy = correct[test.key] / (test.way * test.query)
        assert accuracy.shape == (test.tasks,)
        assert test.accuracy == pytest.approx(accuracy.mean())
        of = workdir.predictions()[test.key]
        assert np.average(
            [row["accuracy"] for row in of.by_class()],
            weights=[row["queries"] for row in of.by_class()],
        ) == pytest.approx(test.accuracy)
        assert test.ci95_by_class == pytest.approx(of.ci95_by_class())
        assert {str(name) for name in of.names} <= set(patterns().class_names)
        assert (test.classes, test.images) == (
            len(of.names),
            int(
                sum(patterns().class_sizes[patterns().class_names.index(str(n))] for n in of.names)
            ),
        )
        half_width = student_t95(test.tasks - 1) * accuracy.std(ddof=1) / np.sqrt(test.tasks)
        assert test.ci95 == pytest.approx(half_width)
    return [test.tasks for test in results["test"]]


@pytest.mark.slow
def test_results_can_be_recomputed_from_the_tasks(workdir):
    assert check(workdir)[:4] == [4] * 4


def test_results_name_the_protocol(workdir):
    assert json.loads(workdir.results_file.read_text())["protocol"] == "none"
    page = (workdir.path / "results.md").read_text()
    assert re.search(r"\| protocol +\| none +\|", page)


def test_more_test_tasks_join_the_results(workdir):
    commands.evaluate(workdir.config(), workdir, {"tasks": 9, "statistics": "batch"})
    commands.evaluate(workdir.config(), workdir, {"tasks": 9, "statistics": "batch"})
    assert check(workdir) == [4] * 4 + [9] * 2
    correct = workdir.correct_per_task()
    tests = [test for test in workdir.results()["test"] if test.eval_statistics == "batch"]
    for few, many in zip(tests[:2], tests[2:], strict=True):
        np.testing.assert_array_equal(correct[few.key], correct[many.key][:4])


def test_tasks_are_chosen_for_an_evaluation_only():
    with pytest.raises(ConfigError, match="--tasks change an evaluation only"):
        commands.resolve_config("train", small_config(), None, {"tasks": 9})


def test_a_damaged_file_is_named_and_never_unpickled(workdir):
    before = workdir.predictions_file.read_bytes()
    try:
        for damaged in (before[:40], b"", np.array([{}], dtype=object).dumps()):
            workdir.predictions_file.write_bytes(damaged)
            with pytest.raises(WorkdirError, match=r"predictions\.npz cannot be read"):
                workdir.predictions()
    finally:
        workdir.predictions_file.write_bytes(before)


def test_the_file_of_an_earlier_version_is_read(workdir, tmp_path):
    older = Workdir(tmp_path)
    older.path.joinpath("results.json").write_bytes(workdir.results_file.read_bytes())
    correct = workdir.correct_per_task()
    with older.correct_file.open("wb") as file:
        np.savez_compressed(file, **correct)
    read = older.correct_per_task()
    assert read.keys() == correct.keys()
    assert all((read[key] == correct[key]).all() for key in correct)


def test_accuracy_by_class_is_written_for_every_test(workdir):
    with (workdir.path / "accuracy_by_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    tests = workdir.results()["test"]
    assert len({(r["model"], r["eval_statistics"], r["tasks"]) for r in rows}) == len(tests)
    queries = sum(test.tasks * test.way * test.query for test in tests)
    assert sum(int(row["queries"]) for row in rows) == queries


def test_more_inner_steps_were_tried_on_the_validation_tasks(workdir):
    results = workdir.results()
    assert len(results["validation_per_inner_step"]) == 5
    assert "On the validation tasks" in (workdir.path / "results.md").read_text()
