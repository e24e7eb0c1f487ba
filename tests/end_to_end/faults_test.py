"""Runs that are killed, stopped, damaged or crowded out end as the undisturbed one does; minutes."""

import errno
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.data import dataset
from mamlpp_jax.inference.trained_run import load_run
from mamlpp_jax.training.checkpoints import CheckpointReader
from mamlpp_jax.training.experiment import build_experiment
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE
from tests.helpers.damage import flip_a_bit, truncate
from tests.helpers.small_runs import SIZE, patterns

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults")]

ROOT = pathlib.Path(__file__).parents[2]
CONFIG_FILE = """
from tests.helpers.small_runs import small_config

def get_config(argument=None):
    return small_config(
        "maml++",
        **{
            "train.epochs": 4,
            "train.steps_per_epoch": 20,
            "compute.steps_per_dispatch": 2,
            "checkpoint.every_minutes": 0.001,
            "norm.eval_statistics": "batch",
        },
    )
"""
KILLS = 20
# As tests/conftest.py does for this process.
OPTIMIZED = os.environ.get("MAMLPP_TEST_OPTIMIZED")
COMPILATION = {} if OPTIMIZED else {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
# What differs between equal runs: where and with which code.
ELSEWHERE = ("commit", "hardware")


class Runs:
    """Starts runs of one configuration, which share data and compiled functions."""

    def __init__(self, folder):
        self.folder = folder
        self.config_file = folder / "fault_config.py"
        self.config_file.write_text(CONFIG_FILE)
        cache = folder / "cache" / "mamlpp_jax"
        cache.mkdir(parents=True)
        dataset.save(patterns(), cache / f"glyphs-{SIZE}px-v1.npz")
        self.environment = {
            **os.environ,
            **COMPILATION,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XDG_CACHE_HOME": str(cache.parent),
        }

    def start(self, workdir, *flags, prelude=""):
        code = f"{prelude}\nimport runpy\nrunpy.run_module('mamlpp_jax.main', run_name='__main__')"
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                code,
                f"--config={self.config_file}",
                f"--workdir={workdir}",
                *flags,
            ],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, workdir, *flags, prelude=""):
        process = self.start(workdir, *flags, prelude=prelude)
        _, stderr = process.communicate(timeout=300)
        return process.returncode, stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def whole(runs):
    """The undisturbed run."""
    workdir = runs.folder / "whole"
    code, stderr = runs.finish(workdir)
    assert code == 0, stderr
    return workdir


def parameters(workdir):
    """The last state's arrays, in the order of their names."""
    experiment = build_experiment(Workdir(workdir).config(), patterns())
    with CheckpointReader(workdir) as checkpoints:
        state = checkpoints.restore(checkpoints.latest_step(), experiment.state_shapes())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def assert_same_end(workdir, whole):
    assert (workdir / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    results = [json.loads((path / "results.json").read_text()) for path in (workdir, whole)]
    for field in ELSEWHERE:
        for result in results:
            result.pop(field)
    assert results[0] == results[1]
    for a, b in zip(parameters(workdir), parameters(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def lines(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_at_twenty_random_moments(runs, whole):
    """From the first import to the last figure; a run that got through is compared, and another one killed."""
    rng, kills, finished = random.Random(0), 0, 0
    workdir = runs.folder / "killed-0"
    while kills < KILLS:
        process = runs.start(workdir)
        # Before anything is written, or a random while after some more steps were.
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, 3))
        else:
            goal = lines(workdir) + rng.randrange(1, 25)
            while lines(workdir) < goal and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.3))
        process.kill()
        _, stderr = process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            continue
        assert process.returncode == 0, stderr
        assert_same_end(workdir, whole)
        finished += 1
        workdir = runs.folder / f"killed-{finished}"
    code, stderr = runs.finish(workdir)
    assert code == 0, stderr
    assert_same_end(workdir, whole)
    assert litter(workdir) == []


def litter(workdir):
    """What only a writer that was cut off leaves."""
    return [path for path in workdir.rglob("*") if "tmp" in path.name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(runs, whole, number):
    workdir = runs.folder / f"signal{number}"
    process = runs.start(workdir)
    wait_for(lambda: lines(workdir) >= 25, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == STOPPED_EXIT_CODE, stderr
    (saved,) = re.findall(r"saved after outer step (\d+)", stderr)
    assert 20 <= int(saved) < 80
    assert (workdir / "checkpoints" / saved).is_dir()
    assert runs.finish(workdir)[0] == 0
    assert_same_end(workdir, whole)


def test_max_minutes(runs, whole):
    workdir = runs.folder / "limited"
    code, stderr = runs.finish(workdir, "--max_minutes=0.001")
    assert code == STOPPED_EXIT_CODE, stderr
    assert "--max_minutes=0.001 is used up; saved after outer step 2." in stderr
    assert runs.finish(workdir)[0] == 0
    assert_same_end(workdir, whole)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate])
def test_a_damaged_latest_checkpoint(runs, whole, damage):
    workdir = runs.folder / damage.__name__
    process = runs.start(workdir)
    wait_for(lambda: lines(workdir) >= 30, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    latest = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    damage(workdir / "checkpoints" / str(latest))
    code, stderr = runs.finish(workdir)
    assert code == 0, stderr
    assert f"checkpoints/{latest} is skipped" in stderr
    assert_same_end(workdir, whole)


def test_two_writers(runs, whole):
    workdir = runs.folder / "crowded"
    process = runs.start(workdir)
    wait_for(lambda: lines(workdir) >= 2, process)
    code, stderr = runs.finish(workdir)
    assert code == 2
    assert f"in use by process {process.pid} on host" in stderr
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert_same_end(workdir, whole)


def test_readers_beside_the_writer(runs, whole):
    """An evaluation, a dry run and a loaded model; the run ends as if nobody had looked."""
    workdir = runs.folder / "watched"
    process = runs.start(workdir)
    wait_for(lambda: (workdir / "checkpoints" / "20").is_dir(), process)
    process.send_signal(signal.SIGSTOP)  # else it may end before the readers have started
    try:
        for flags in (("--mode=evaluate", "--tasks=2"), ("--dry_run",)):
            code, stderr = runs.finish(workdir, *flags)
            assert code == 0, stderr
        assert load_run(workdir).step >= 20
        assert Workdir(workdir).results()["finished"] is False
    finally:
        process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=300) == 0, process.communicate()[1]
    assert_same_end(workdir, whole)


def test_a_clock_that_jumps(runs, whole):
    """A day forth and back again and again, also while some of the checkpoints are written."""
    prelude = (
        "import itertools, time\n"
        "real, looks = time.time, itertools.count()\n"
        "def jumping():\n"
        "    look = next(looks)\n"
        "    return real() + 86400 * (look // 1000 % 2)\n"
        "time.time = jumping\n"
    )
    workdir = runs.folder / "jumps"
    code, stderr = runs.finish(workdir, prelude=prelude)
    assert code == 0, stderr
    assert "Traceback" not in stderr
    assert_same_end(workdir, whole)


def test_a_full_disk(runs, whole):
    """Every write fails after the first few, as on a disk without room."""
    prelude = (
        "import builtins, errno, os\n"
        "real = os.fsync\n"
        "state = {'calls': 0}\n"
        "def fsync(fd):\n"
        "    state['calls'] += 1\n"
        "    if state['calls'] > 8:\n"
        f"        raise OSError({errno.ENOSPC}, 'No space left on device')\n"
        "    return real(fd)\n"
        "os.fsync = fsync\n"
    )
    workdir = runs.folder / "full"
    code, stderr = runs.finish(workdir, prelude=prelude)
    assert code == 2, stderr
    assert "No space left on device" in stderr
    assert "Traceback" not in stderr
    assert runs.finish(workdir)[0] == 0
    assert_same_end(workdir, whole)


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, and a function that changes its options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield (
        folder,
        lambda options: subprocess.run(
            ["mount", "-o", f"remount,{options}", str(folder)], check=True
        ),
    )
    subprocess.run(["umount", str(folder)], check=False)


def test_a_small_disk(runs, whole, disk):
    """The same on a real file system of a few hundred kilobytes, where one may be mounted."""
    folder, remount = disk
    workdir = folder / "run"
    code, stderr = runs.finish(workdir)
    assert code == 2, stderr
    assert "No space left on device" in stderr or "cannot be saved" in stderr
    assert "Traceback" not in stderr
    remount("size=64m")
    code, stderr = runs.finish(workdir)
    assert code == 0, stderr
    assert_same_end(workdir, whole)
    assert litter(workdir) == []


def test_a_disk_that_became_read_only(runs, whole, disk):
    folder, remount = disk
    remount("size=64m")
    workdir = folder / "run"
    code, stderr = runs.finish(workdir, "--max_minutes=0.001")
    assert code == STOPPED_EXIT_CODE, stderr
    remount("ro")
    code, stderr = runs.finish(workdir)
    assert code == 2, stderr
    assert re.search(f"error: .*{workdir}.*Read-only file system", stderr)
    assert "Traceback" not in stderr
    remount("rw")
    assert runs.finish(workdir)[0] == 0
    assert_same_end(workdir, whole)


def test_a_folder_that_vanishes(runs):
    workdir = runs.folder / "vanishing"
    process = runs.start(workdir)
    wait_for(lambda: lines(workdir) >= 25, process)
    (workdir / "checkpoints").rename(runs.folder / "moved-checkpoints")
    (workdir / "checkpoints").write_text("not a folder")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2, stderr
    assert f"the checkpoints in {workdir}/checkpoints cannot be saved" in stderr
    (workdir / "checkpoints").unlink()
    (runs.folder / "moved-checkpoints").rename(workdir / "checkpoints")
    assert runs.finish(workdir)[0] == 0


def test_a_workdir_that_vanishes(runs):
    """The run ends soon, and leaves nothing in its place that would look like a run of its own."""
    workdir = runs.folder / "vanished"
    process = runs.start(workdir)
    wait_for(lambda: lines(workdir) >= 25, process)
    workdir.rename(runs.folder / "elsewhere")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2, stderr
    assert re.search(f"error: .*{workdir}", stderr)
    assert "Traceback" not in stderr
    assert lines(runs.folder / "elsewhere") < 80
    # A save that was under way may still have made its folder.
    assert not (workdir / "config.json").exists()
    assert not list(workdir.glob("checkpoints/*[0-9]"))
    shutil.rmtree(workdir, ignore_errors=True)
    (runs.folder / "elsewhere").rename(workdir)
    assert runs.finish(workdir)[0] == 0


def test_a_signal_while_it_compiles(runs, whole):
    """The second one does not wait for the compiler."""
    prelude = (
        "import ctypes, jax\n"
        "import mamlpp_jax.training.trainer as trainer\n"
        "def stuck(*args):\n"
        "    mutex, libc = ctypes.create_string_buffer(128), ctypes.CDLL(None)\n"
        "    print('compiling', flush=True)\n"
        "    libc.pthread_mutex_lock(mutex)\n"
        "    libc.pthread_mutex_lock(mutex)\n"
        "trainer.jitted_train_steps = stuck\n"
    )
    workdir = runs.folder / "compiling"
    process = runs.start(workdir, prelude=prelude)
    assert process.stdout.readline() == "compiling\n"
    process.send_signal(signal.SIGTERM)
    for line in process.stderr:
        if "received SIGTERM: finishing" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert runs.finish(workdir)[0] == 0
    assert_same_end(workdir, whole)


def test_a_cache_of_compiled_functions_that_was_cut_off(runs, whole):
    cut = runs.folder / "cut"
    shutil.copytree(runs.environment["JAX_COMPILATION_CACHE_DIR"], cut)
    for path in cut.glob("*-cache"):
        os.truncate(path, path.stat().st_size // 2)
    workdir = runs.folder / "compiled-again"
    prelude = f"import os\nos.environ['JAX_COMPILATION_CACHE_DIR'] = {str(cut)!r}\n"
    code, stderr = runs.finish(workdir, prelude=prelude)
    assert code == 0, stderr
    assert_same_end(workdir, whole)


def test_a_folder_that_cannot_be_written(runs):
    blocked = runs.folder / "file"
    blocked.write_text("")
    code, stderr = runs.finish(blocked / "run")
    assert code == 2
    assert f"{blocked}/run" in stderr
    assert "Traceback" not in stderr
