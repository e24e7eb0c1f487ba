"""Accuracies per task: kept beside the results, joined by later evaluations, never in their way."""

import json
import re

import numpy as np
import pytest

from mamlpp_jax.algorithms.metrics import student_t95
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.errors import ConfigError, WorkdirError
from tests.helpers.small_runs import patterns, small_config

CONFIG = {"norm.eval_statistics": "batch,support", "task.query": 2, "train.epochs": 1}

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
        half_width = student_t95(test.tasks - 1) * accuracy.std(ddof=1) / np.sqrt(test.tasks)
        assert test.ci95 == pytest.approx(half_width)
    return [test.tasks for test in results["test"]]


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
    before = workdir.correct_file.read_bytes()
    try:
        for damaged in (before[:40], b"", np.array([{}], dtype=object).dumps()):
            workdir.correct_file.write_bytes(damaged)
            with pytest.raises(WorkdirError, match=r"correct_per_task\.npz cannot be read"):
                workdir.correct_per_task()
    finally:
        workdir.correct_file.write_bytes(before)
