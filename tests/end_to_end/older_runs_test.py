"""The folder of a run that an older version made is used as it is, or refused in one paragraph."""

import json
from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest

from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.inference.trained_run import load_run
from mamlpp_jax.training.checkpoints import Checkpoints
from tests.helpers.damage import contents
from tests.helpers.refusals import refused
from tests.helpers.small_runs import patterns, small_config, small_experiment


class OldState(NamedTuple):
    """The fields of the meta-parameters lay beside the others."""

    step: Any
    params: Any
    norm: Any
    inner: Any
    batch_stats: Any
    opt_state: Any


@pytest.fixture(autouse=True)
def _use_patterns(monkeypatch):
    monkeypatch.setattr(commands, "load_dataset", lambda data: patterns())


@pytest.fixture
def old_run(tmp_path):
    """A folder whose configuration has other fields and whose checkpoints hold another tree."""
    workdir = Workdir(tmp_path / "run")
    workdir.path.mkdir()
    stored = small_config().to_dict()
    del stored["model"]["name"]
    stored["model"]["drop_block"] = 0.0
    workdir.config_file.write_text(json.dumps(stored))
    state = small_experiment().init_run_state()
    old = OldState(jnp.int32(2), *state.meta[:3], state.batch_stats, state.opt_state)
    with Checkpoints(workdir.path, num_best=3) as checkpoints:
        checkpoints.buffer(old, 0.5)
        checkpoints.save()
    return workdir


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda run: commands.train(small_config(), run), "belongs to a run of another"),
        # What `--dry_run` and `--mode=evaluate --config=FILE` do first.
        (
            lambda run: commands.resolve_config("train", small_config(), run, {}),
            "belongs to a run of another",
        ),
        (
            lambda run: commands.resolve_config("evaluate", small_config(), run, {}),
            "belongs to a run of another",
        ),
        (
            lambda run: commands.resolve_config("evaluate", None, run, {}),
            "config.json does not fit this version",
        ),
        (lambda run: commands.evaluate(small_config(), run, {}), "does not fit this version"),
        (lambda run: load_run(run.path), "config.json does not fit this version"),
    ],
    ids=["train", "dry run", "evaluate with", "evaluate without", "evaluate", "load_run"],
)
def test_a_run_with_an_option_that_was_removed_is_refused_by_its_name(old_run, use, said):
    stored = json.loads(old_run.config_file.read_text())
    stored["model"]["drop_block"] = 0.1
    old_run.config_file.write_text(json.dumps(stored))
    with refused(old_run.path, str(old_run), f"{said}.*drop_block is 0.1, .*28e0004"):
        use(old_run)


@pytest.mark.parametrize(
    "use",
    [
        lambda run: commands.train(small_config(), run),
        lambda run: commands.evaluate(small_config(), run, {}),
        lambda run: load_run(run.path),
    ],
    ids=["train", "evaluate", "load_run"],
)
def test_checkpoints_of_another_tree_are_refused_and_stay(old_run, use):
    before = contents(old_run.checkpoints)
    with pytest.raises(WorkdirError) as caught:
        use(old_run)
    assert f"{old_run.checkpoints / '2'} cannot be restored" in str(caught.value)
    assert "another configuration, data set or version" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(old_run.checkpoints) == before
    assert old_run.results() is None
