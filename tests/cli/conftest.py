"""One finished run that the tests of the commands look at or copy."""

import shutil

import pytest

from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands
from mamlpp_jax.training import trainer
from tests.helpers.refusals import compilations
from tests.helpers.small_runs import patterns, small_config


@pytest.fixture(scope="session")
def finished_config():
    return small_config(**{"norm.eval_statistics": "batch,support"})


@pytest.fixture(scope="session")
def finished_and_compiled(tmp_path_factory, finished_config):
    """A finished run of MAML++, and how many functions each dispatch of outer steps compiled."""
    workdir = Workdir(tmp_path_factory.mktemp("runs") / "finished")
    compile_steps, compiled = trainer.jitted_train_steps, []

    def counting(*arguments):
        train_steps = compile_steps(*arguments)

        def run(*state_source_plan):
            before = compilations()
            result = train_steps(*state_source_plan)
            compiled.append(compilations() - before)
            return result

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "load_dataset", lambda data: patterns())
        patch.setattr(trainer, "jitted_train_steps", counting)
        commands.train(finished_config, workdir)
    return workdir, compiled


@pytest.fixture
def finished(finished_and_compiled):
    """The finished run, to be looked at only."""
    return finished_and_compiled[0]


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return Workdir(shutil.copytree(finished.path, tmp_path / "copy"))


@pytest.fixture
def use_patterns(monkeypatch):
    """The commands find the patterns in the place of any data set."""
    monkeypatch.setattr(commands, "load_dataset", lambda data: patterns())
