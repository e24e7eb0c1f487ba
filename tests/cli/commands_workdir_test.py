"""Whatever is wrong with a working directory, the commands say so before the data are loaded."""

import json

import pytest

from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from tests.helpers.refusals import refused
from tests.helpers.small_runs import small_config


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    monkeypatch.setattr(commands, "load_dataset", lambda data: pytest.fail("data were loaded"))


@pytest.fixture
def claimed(tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.claim(small_config())
    (workdir.checkpoints / "2").mkdir(parents=True)
    return workdir


def refuse_to_train(root, workdir, *parts, config=None):
    """Before the devices are set up, and where the first check came too early."""
    config = config or small_config()
    with refused(root, *parts):
        commands.train(config, workdir)
    with refused(root, *parts):
        commands.resolve_config("train", config, workdir, {})


def test_another_configuration(tmp_path, claimed):
    other = small_config(**{"train.epochs": 7, "inner.learning_rate": 0.5})
    both = "inner.learning_rate: 0.5 here, 0.1 there; config.train.epochs: 7 here, 3 there"
    refuse_to_train(tmp_path, claimed, str(claimed), both, "another --workdir", config=other)


def test_what_does_not_change_the_run_may_change(claimed):
    config = small_config(**{"compute.devices": 2, "log.every_seconds": 1.0})
    assert commands.resolve_config("train", config, claimed, {}) is config


def test_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    refuse_to_train(tmp_path, Workdir(tmp_path / "file"), "is a file; it must be a folder")


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "main.py").write_text("mine")
    refuse_to_train(tmp_path, Workdir(tmp_path), r"it holds main\.py, but no config\.json")


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_a_name_that_is_too_long(tmp_path, mode):
    config = small_config() if mode == "train" else None
    with refused(tmp_path, "xxx.*(too long|File name)"):
        commands.resolve_config(mode, config, Workdir(tmp_path / ("x" * 300)), {})


@pytest.mark.parametrize("content", ["", "[1, 2]"])
def test_a_broken_configuration_file(tmp_path, content):
    workdir = Workdir(tmp_path)
    workdir.config_file.write_text(content)
    said = r"config\.json (is not readable as JSON|holds a \w+)"
    refuse_to_train(tmp_path, workdir, said)
    with refused(tmp_path, said):
        commands.resolve_config("evaluate", None, workdir, {})


def test_checkpoints_of_an_unknown_run(tmp_path):
    (tmp_path / "checkpoints" / "400").mkdir(parents=True)
    refuse_to_train(tmp_path, Workdir(tmp_path), r"holds checkpoints, but no config\.json")


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"test": [5], "config": {}})])
def test_results_that_no_run_wrote(tmp_path, claimed, content):
    claimed.results_file.write_text(content)
    with refused(tmp_path, r"results\.json"):
        commands.train(small_config(), claimed)


def test_training_needs_a_configuration(tmp_path):
    with refused(tmp_path, "--config is missing"):
        commands.resolve_config("train", None, Workdir(tmp_path / "run"), {})


def test_a_run_that_cannot_fit_into_memory(tmp_path):
    config = small_config(**{"model.filters": 2_000_000_000})
    said = r"of memory or more.*because of config\.model\.filters=2000000000"
    with refused(tmp_path, said):
        commands.train(config, Workdir(tmp_path / "run"))
    with refused(tmp_path, said):
        commands.dry_run(config, Workdir(tmp_path / "run"))
