"""Ctrl-C in a command that has nothing to save."""

from mamlpp_jax.cli import commands
from tests.helpers import command_lines


def test_an_interrupted_command_says_so_in_one_line(monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "resolve_config", interrupted)
    done = command_lines.run("main", "--mode=evaluate", f"--workdir={tmp_path}")
    assert (done.code, done.err) == (130, "stopped: interrupted\n")
