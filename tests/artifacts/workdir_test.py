"""Whose a working directory is, what it is called, and when it is refused."""

import json
import os
from typing import NamedTuple

import pytest

from mamlpp_jax.artifacts import workdir as workdir_lib
from mamlpp_jax.cli import commands
from mamlpp_jax.training import final_evaluation
from mamlpp_jax.training.experiment import build
from mamlpp_jax.utils.files import write_json
from tests.helpers.refusals import refused
from tests.helpers.small_runs import patterns, small_config


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    """Whatever is wrong with a working directory is told before the data are loaded."""
    monkeypatch.setattr(commands, "load_dataset", lambda data: pytest.fail("data were loaded"))


@pytest.fixture
def claimed(tmp_path):
    workdir = tmp_path / "run"
    workdir_lib.claim(workdir, small_config())
    return workdir


def test_claiming_makes_the_folder_and_its_configuration(tmp_path):
    workdir = tmp_path / "a" / "b"
    workdir_lib.claim(workdir, small_config())
    assert json.loads((workdir / "config.json").read_text()) == small_config().to_dict()
    assert workdir_lib.read_config(workdir).to_dict() == small_config().to_dict()


def test_another_configuration_is_refused_naming_every_differing_field(tmp_path, claimed):
    other = small_config(**{"train.epochs": 7, "inner.learning_rate": 0.5})
    parts = [
        "inner.learning_rate: 0.5 here, 0.1 there; config.train.epochs: 7 here, 3 there",
        "another --workdir",
    ]
    with refused(tmp_path, str(claimed), *parts):
        commands.train(other, claimed)
    with refused(tmp_path, str(claimed), *parts):
        commands.resolve_config("train", other, claimed, commands.Overrides())


@pytest.mark.parametrize(
    "fields",
    [
        {"compute.devices": 2, "compute.tasks_per_chunk": 1, "compute.steps_per_dispatch": 1},
        {"log.tensorboard": True, "log.every_seconds": 1.0},
        {"checkpoint.every_minutes": 1.0},
        {"data.cache_dir": "/a", "data.manual_dir": "/b", "data.tfds_dir": "/c"},
    ],
)
def test_what_does_not_change_the_run_may_change(claimed, fields):
    config = small_config(**fields)
    assert commands.resolve_config("train", config, claimed, commands.Overrides()) is config
    workdir_lib.claim(claimed, config)
    assert workdir_lib.read_config(claimed).to_dict() == config.to_dict()


def test_a_file_is_no_workdir(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with refused(tmp_path, f"workdir {path} is a file; it must be a folder"):
        commands.train(small_config(), path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(tmp_path, "file/run cannot be made"):
        workdir_lib.claim(tmp_path / "file" / "run", small_config())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o500)
    with refused(tmp_path, str(folder), "write"):
        workdir_lib.claim(folder, small_config())


@pytest.mark.parametrize("content", ["", "{", '{"train": ', "[1, 2]", "5", "null", "\x00"])
def test_a_broken_configuration_file_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with refused(tmp_path, r"config\.json (is not readable as JSON|holds a \w+)"):
        commands.train(small_config(), tmp_path)
    with refused(tmp_path, r"config\.json (is not readable as JSON|holds a \w+)"):
        commands.resolve_config("evaluate", None, tmp_path, commands.Overrides())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": 5}, "config.train is not a field"),
        ({"seed": "zero"}, "config.seed is 'zero'; it must be of type int"),
        ({"extra": 1}, "config.extra is not a field"),
        ({"method": "mamal"}, "method is 'mamal'"),
    ],
)
def test_a_configuration_of_another_version_is_named(tmp_path, claimed, change, said):
    stored = {**small_config().to_dict(), **change}
    (claimed / "config.json").write_text(json.dumps(stored))
    with refused(tmp_path, r"config\.json does not fit this version: ", said):
        commands.resolve_config("evaluate", None, claimed, commands.Overrides())


def test_a_workdir_that_another_run_claimed_meanwhile_is_refused(tmp_path, claimed):
    """Both looked at it when it was new; the other one got it and has ended by now."""
    with refused(tmp_path, "belongs to a run of another configuration .*train.epochs: 7 here, 3"):
        workdir_lib.claim(claimed, small_config(**{"train.epochs": 7}))


def test_checkpoints_of_an_unknown_run_are_not_continued(tmp_path):
    (tmp_path / "checkpoints" / "400").mkdir(parents=True)
    with refused(tmp_path, str(tmp_path), r"holds checkpoints, but no config\.json"):
        commands.train(small_config(), tmp_path)


def test_claiming_removes_what_a_killed_writer_left(claimed):
    left = claimed / f".metrics.jsonl.{32 * 'a'}.tmp"
    others = [claimed / ".hidden", claimed / ".notes.tmp", claimed / "kept.tmp"]
    for path in (left, *others):
        path.write_text("")
    workdir_lib.claim(claimed, small_config())
    assert not left.exists()
    assert all(path.exists() for path in others)


ROW = {
    "model": "best",
    "train_statistics": "batch",
    "eval_statistics": "batch",
    "way": 3,
    "shot": 1,
    "query": 1,
    "inner_steps": 2,
    "tasks": 4,
    "accuracy": 0.5,
    "ci95": 0.1,
    "accuracy_per_step": [0.2, 0.3, 0.5],
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": None}, "lacks the run's configuration"),
        ({"config": {"task": [], "train": {}}}, "lacks the run's configuration"),
        ({"test": None}, "is not a list of objects"),
        ({"test": [5]}, "is not a list of objects"),
        ({"test": [{}]}, "has model=None"),
        ({"test": [{**ROW, "way": "3"}]}, "has way='3'"),
        ({"test": [{**ROW, "accuracy_per_step": ["a"]}]}, r"has accuracy_per_step=\['a'\]"),
    ],
)
def test_results_that_no_run_wrote_are_refused(tmp_path, claimed, change, said):
    results = {"finished": True, "config": small_config().to_dict(), "test": [ROW]}
    path = claimed / "results.json"
    path.write_text(json.dumps(results))
    assert workdir_lib.read_results(claimed) == results
    path.write_text(json.dumps({**results, **change}))
    with refused(tmp_path, r"results\.json does not fit this version: .*", said):
        commands.train(small_config(), claimed)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_results_file_is_named(tmp_path, claimed, content):
    (claimed / "results.json").write_text(content)
    with refused(tmp_path, r"results\.json"):
        commands.train(small_config(), claimed)


def test_evaluation_needs_a_trained_run(tmp_path, claimed):
    with refused(tmp_path, "--mode=evaluate needs --workdir"):
        commands.resolve_config("evaluate", None, None, commands.Overrides())
    with refused(tmp_path, "--mode=evaluate needs --workdir"):
        commands.resolve_config("evaluate", small_config(), None, commands.Overrides())
    with refused(tmp_path, r"none/config\.json does not exist"):
        commands.resolve_config("evaluate", None, tmp_path / "none", commands.Overrides())
    with refused(tmp_path, r"none/config\.json does not exist"):
        commands.evaluate(small_config(), tmp_path / "none", commands.Overrides())
    with refused(tmp_path, "has no checkpoint; train before evaluating"):
        commands.evaluate(small_config(), claimed, commands.Overrides())


def test_evaluation_flags_are_not_for_training(tmp_path):
    with refused(tmp_path, "--way, --statistics change an evaluation only", "config.task.way=20"):
        commands.resolve_config(
            "train", small_config(), None, commands.Overrides(way=3, statistics="batch")
        )


def test_training_needs_a_configuration(tmp_path):
    with refused(tmp_path, "--config is missing"):
        commands.resolve_config("train", None, tmp_path / "run", commands.Overrides())


def test_default_workdir_names_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = workdir_lib.default_workdir(small_config("maml+da", seed=3))
    assert str(name).startswith("runs/small-maml+da-seed3-")
    assert name == workdir_lib.default_workdir(
        small_config("maml+da", **{"seed": 3, "compute.devices": 2, "log.tensorboard": True})
    )
    others = {
        workdir_lib.default_workdir(small_config("maml+da", **{"seed": 3, field: value}))
        for field, value in {"train.epochs": 4, "data.seed": 1, "task.shot": 2}.items()
    }
    assert len({name, *others}) == 4
    assert not (tmp_path / "runs").exists()


class _FakeState(NamedTuple):
    step: int


def test_rows_of_other_conditions_are_kept_once_the_run_is_finished(tmp_path):
    """An evaluation of an unfinished run tests another model than the finished run has."""
    program = build(small_config(), patterns())
    row = ROW
    five = {**row, "shot": 5, "accuracy": 0.5}

    def collect(steps, new):
        states = [_FakeState(step) for step in steps]
        results = final_evaluation.collect_results(tmp_path, program, max(steps), states, [new])
        write_json(tmp_path / "results.json", results)
        return results

    first = collect([2], five)
    assert (first["best_epochs"], first["finished"]) == ([0], False)
    finished = collect([6, 2], {**row, "accuracy": 0.8})
    assert (finished["best_epochs"], finished["steps"], finished["finished"]) == ([2, 0], 6, True)
    assert finished["test"] == [{**row, "accuracy": 0.8}]
    both = collect([6, 2], five)
    assert both["test"] == [{**row, "accuracy": 0.8}, five]
    again = collect([6, 2], {**row, "accuracy": 0.9})
    assert again["test"] == [five, {**row, "accuracy": 0.9}]
    assert {**again, "test": None} == {**finished, "test": None}


def test_a_workdir_whose_name_is_too_long_is_refused(tmp_path):
    path = tmp_path / ("x" * 300)
    for command in (
        lambda: commands.train(small_config(), path),
        lambda: commands.resolve_config("evaluate", None, path, commands.Overrides()),
    ):
        with refused(tmp_path, "xxx.*(too long|File name)"):
            command()
