"""Ctrl-C in a command that has nothing to save yet."""

import os
import signal
import subprocess
import sys

import pytest

from tests.helpers.pseudo_terminal import pseudo_terminal


@pytest.mark.parametrize("command", ["main", "predict", "data"])
def test_an_interrupted_command_says_so_in_one_line_even_while_it_loads(command):
    with pseudo_terminal() as terminal:
        with subprocess.Popen(
            [sys.executable, "-m", f"mamlpp_jax.{command}"],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "TERM": "xterm"},
            stdout=terminal.stream,
            stderr=terminal.stream,
        ) as process:
            terminal.read("loading JAX")
            process.send_signal(signal.SIGINT)
            terminal.read_all(process, seconds=60)
        assert process.returncode == 130
        assert terminal.text.endswith("\r\nstopped: interrupted\r\n")
        assert "Traceback" not in terminal.text
