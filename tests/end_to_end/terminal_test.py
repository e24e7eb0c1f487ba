"""The quickstart on a terminal: every phase announces itself before it starts, in order, with a running clock."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.helpers.pseudo_terminal import lines, pseudo_terminal

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # as tests/conftest.py does
SMALLER = {
    "data.image_size": 16,
    "model.filters": 4,
    "train.inner_steps": 2,
    "train.epochs": 2,
    "train.steps_per_epoch": 2,
    "train.first_order_epochs": 1,
    "evaluation.tasks": 4,
    "compute.devices": 1,
}
BAR = "━" * 8 + " 0/4 "
# The beginning of every line that announces a phase, and of two that are always there.
ORDER = [
    "loading JAX and the program ... 0:00:0",
    "estimating the memory ... ",
    "making the data set glyphs at 16 pixels ... 0:00:0",
    "writing ",
    "hashing the images ... ",
    "setting up devices and learner ... ",
    "opening the checkpoints ... ",
    "making the first state ... ",
    BAR,
    "compiling the training function (order 1, multi-step loss) ... 0:00:0",
    "compiling the evaluation, validating epoch 1 on 4 tasks ... 0:00:0",
    "epoch 1 of 2: validation accuracy",
    "compiling the training function (order 2, multi-step loss) ... 0:00:0",
    "validating epoch 2 on 4 tasks ... 0:00:0",
    "epoch 2 of 2: validation accuracy",
    "reading the best epochs ... ",
    "compiling the evaluation, testing epoch ",
    "testing epoch ",
    "drawing the figures ... ",
    "Test accuracy",
]


def test_the_phases_of_the_quickstart_on_a_terminal(tmp_path):
    command = [sys.executable, "-m", "mamlpp_jax.main", "--config=configs/quickstart.py"]
    command += [f"--config.{field}={value}" for field, value in SMALLER.items()]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TERM": "xterm",
        "NO_COLOR": "",
        **({} if os.environ.get("MAMLPP_TEST_OPTIMIZED") else QUICK),
        "XDG_CACHE_HOME": str(tmp_path),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
    }
    with pseudo_terminal() as terminal:
        with subprocess.Popen(
            [*command, f"--workdir={tmp_path / 'run'}"],
            cwd=ROOT,
            env=environment,
            stdout=terminal.stream,
            stderr=terminal.stream,
        ) as process:
            terminal.read_all(process, seconds=1800)
        assert process.returncode == 0, terminal.text[-2000:]
    shown = lines(terminal.text)
    at = -1
    for part in ORDER:
        later = [i for i in range(at + 1, len(shown)) if shown[i].startswith(part)]
        assert later, f"{part!r} does not follow {shown[at]!r} in {shown}"
        at = later[0]
    # The clock of what takes longer than a second, and the bar's beside it.
    clocks = {line for line in shown if re.match(r"compiling the training .* \.\.\. \d", line)}
    assert len(clocks) > 2  # of two functions
    assert len({line for line in shown if line.startswith(BAR)}) > 1
