"""The command line as a user meets it: exit codes, one paragraph on standard error, whole commands."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from mamlpp_jax.data import dataset
from tests.helpers.small_runs import SIZE, patterns

ROOT = pathlib.Path(__file__).parents[2]
CONFIG_FILE = """
from tests.helpers.small_runs import small_config

def get_config(argument=None):
    return small_config(argument or "maml", **{"train.epochs": 1})
"""


def command(*arguments, **environment):
    """Runs the command line, compiling quickly, and returns the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "mamlpp_jax.main", *map(str, arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--config=configs/quickstart.py", "--config.trian.epochs=1"],
            "config.trian.epochs is not a field (did you mean config.train.epochs?)",
        ),
        (
            ["--config=configs/quickstart.py", "--config.train.epochs=many"],
            "config.train.epochs is 'many'; it must be of type int",
        ),
        (
            ["--config=configs/omniglot.py:ways=5"],
            "no argument 'ways' (did you mean way?); it takes way=5, shot=1, method=maml++, protocol=paper, seed=0",
        ),
        (["--config=configs/none.py:way=5", "--config.train.epochs=3"], "'configs/none.py'"),
        (["--config=configs/quickstart.py", "config.train.epochs=3"], "is not a flag"),
        (["--config=configs/omniglot.py:way=20", "--config.data.name=x"], "glyphs, image_folder"),
        (["--mode=evaluate", "--max_minutes=9"], "only a training can save and go on"),
        (
            ["--data_config=configs/omniglot.py", "--data_config.task.way=20"],
            "of --data_config only the fields data.* are used",
        ),
        (
            ["--config=configs/omniglot.py", "--config.protocol=released"],
            "choose it by the argument of the configuration: --config=configs/omniglot.py:protocol=released",
        ),
    ],
)
def test_a_mistake_is_one_paragraph_and_exit_code_2(tmp_path, arguments, said):
    workdir = tmp_path / "run"
    done = command(*arguments, f"--workdir={workdir}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not workdir.exists()


@pytest.fixture
def small(tmp_path):
    """A configuration file of a small run, and the environment in whose cache its data set lies."""
    config_file, cache = tmp_path / "small_file.py", tmp_path / "cache" / "mamlpp_jax"
    config_file.write_text(CONFIG_FILE)
    cache.mkdir(parents=True)
    dataset.save(patterns(), cache / f"glyphs-{SIZE}px-v1.npz")
    return config_file, {"XDG_CACHE_HOME": str(cache.parent)}


@pytest.mark.slow
def test_train_then_evaluate_under_other_conditions(tmp_path, small):
    config_file, environment = small
    workdir = tmp_path / "run"
    trained = command(
        f"--config={config_file}:maml+ca",
        "--config.log.every_seconds=5",
        f"--workdir={workdir}",
        **environment,
    )
    assert trained.returncode == 0, trained.stderr
    assert "Test accuracy" in trained.stdout
    assert f"results: {workdir / 'results.md'}" in trained.stdout
    assert "Traceback" not in trained.stderr
    assert json.loads((workdir / "config.json").read_text())["method"] == "maml+ca"
    before = json.loads((workdir / "results.json").read_text())
    evaluated = command(
        "--mode=evaluate", f"--workdir={workdir}", "--way=2", "--shot=2", **environment
    )
    assert evaluated.returncode == 0, evaluated.stderr
    after = json.loads((workdir / "results.json").read_text())
    assert after["test"][:2] == before["test"]
    assert [(row["way"], row["shot"]) for row in after["test"]] == [(3, 1)] * 2 + [(2, 2)] * 2
    assert {**after, "test": None} == {**before, "test": None}


@pytest.mark.slow
def test_a_run_that_is_out_of_time_goes_on(tmp_path, small):
    config_file, environment = small
    flags = (f"--config={config_file}:maml", f"--workdir={tmp_path / 'run'}")
    more = "--config.train.epochs=2"
    stopped = command(*flags, more, "--max_minutes=0.0001", **environment)
    assert stopped.returncode == 75, stopped.stderr
    assert "--max_minutes=0.0001 is used up; saved after outer step" in stopped.stderr
    assert not (tmp_path / "run" / "results.json").exists()
    assert command(*flags, more, **environment).returncode == 0
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
def test_dry_run_writes_no_workdir(tmp_path, small):
    config_file, environment = small
    workdir = tmp_path / "run"
    done = command(
        f"--config={config_file}:maml++", f"--workdir={workdir}", "--dry_run", **environment
    )
    assert done.returncode == 0, done.stderr
    for text in (str(workdir), "Schedule (2 outer steps)", "MiB working", "all meta-parameters"):
        assert text in done.stdout
    assert not workdir.exists()
