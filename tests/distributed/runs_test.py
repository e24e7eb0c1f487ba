"""Several processes that compute one run, on loopback: the same numbers, one writer, and no hang when one is lost."""

import json
import shutil
import signal
import sys
import time

import numpy as np
import pytest

from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.data import dataset
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE
from tests.helpers.process_groups import TIMEOUT, codes, free_port, logs, started
from tests.helpers.small_runs import SIZE, patterns

LOST_TIMEOUT = 60  # by then every process has noticed that one is gone
CONFIG_FILE = """
from tests.helpers.small_runs import small_config

def get_config(argument=None):
    return small_config("maml+da", **{
        "train.epochs": 4, "train.steps_per_epoch": 5, "train.tasks_per_step": 4,
        "evaluation.tasks": 10, "compute.devices": 0, "train.multi_step_epochs": 0,
        "checkpoint.every_minutes": 1e-4})
"""


class Runs:
    """Runs of one small configuration with any number of processes."""

    def __init__(self, folder):
        self.folder = folder
        self.config_file = folder / "small_file.py"
        self.config_file.write_text(CONFIG_FILE)
        cache = folder / "cache" / "mamlpp_jax"
        cache.mkdir(parents=True)
        dataset.save(patterns(), cache / f"glyphs-{SIZE}px-v1.npz")
        self.environment = {"XDG_CACHE_HOME": str(cache.parent)}

    def commands(self, workdir, count, devices, *flags, last=(), config=True):
        """One command per process; `last` are flags of the last one only."""
        common = [sys.executable, "-m", "mamlpp_jax.main", f"--workdir={workdir}", *flags]
        if config:
            common += [f"--config={self.config_file}", f"--config.compute.devices={devices}"]
        if count == 1:
            return [[*common, *last]]
        address = f"--coordinator_address=127.0.0.1:{free_port()}"
        group = [address, f"--num_processes={count}"]
        made = [[*common, *group, f"--process_id={i}"] for i in range(count)]
        return [*made[:-1], [*made[-1], *last]]

    def run(self, workdir, count, devices, *flags, timeout=TIMEOUT, **more):
        """Runs to the end; returns exit codes and what each process said."""
        said = self.folder / f"logs-{workdir.name}-{len(list(self.folder.iterdir()))}"
        commands = self.commands(workdir, count, devices, *flags, **more)
        with started(commands, said, **self.environment) as running:
            return codes(running, timeout), logs(said)


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of one process on one device."""
    folder = tmp_path_factory.mktemp("undisturbed")
    found, said = Runs(folder).run(folder / "run", 1, 1)
    assert found == [0], said
    return folder / "run"


def numbers(workdir, key):
    return [row[key] for row in read_metrics(workdir) if key in row]


def assert_same_run(workdir, reference):
    """The same metrics to rounding: float32, 20 outer steps."""
    assert numbers(workdir, "step") == numbers(reference, "step")
    for key in ("loss", "val_loss_batch"):
        np.testing.assert_allclose(
            numbers(workdir, key), numbers(reference, key), rtol=0, atol=1e-5
        )
    assert len(numbers(workdir, "loss")) == 20
    ours, theirs = (json.loads((w / "results.json").read_text()) for w in (workdir, reference))
    assert [row["loss"] for row in ours["test"]] == pytest.approx(
        [row["loss"] for row in theirs["test"]], abs=1e-5
    )


def test_processes_with_different_commands_are_refused(runs, tmp_path):
    found, said = runs.run(tmp_path / "run", 2, 2, last=["--config.seed=1"], timeout=120)
    assert_refused_everywhere(found, said, "the command or configuration of process(es) 1 differs")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_an_error(runs, tmp_path):
    found, (said,) = runs.run(tmp_path / "run", 1, 1, "--distributed")
    assert found == [2]
    assert "--distributed found no SLURM" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_slurm_is_detected(runs, tmp_path):
    """As srun would start one process: the variables decide, no further flag."""
    port = free_port()
    runs.environment.update(
        SLURM_JOB_ID="7",
        SLURM_STEP_NODELIST="localhost",
        SLURM_NTASKS="1",
        SLURM_PROCID="0",
        SLURM_LOCALID="0",
        SLURM_STEP_NUM_NODES="1",
        JAX_COORDINATOR_PORT=str(port),
    )
    found, (said,) = runs.run(tmp_path / "run", 1, 1, "--distributed", "--dry_run")
    assert found == [0], said
    assert "Schedule (20 outer steps)" in said


def assert_refused_everywhere(found, said, text):
    """Each process that could still speak says it; none goes on."""
    assert 2 in found, said
    assert 0 not in found, said
    assert any(text in one for one in said), said


@pytest.mark.slow
def test_a_workdir_that_is_not_shared_is_refused(runs, tmp_path):
    """As on hosts where the same path leads to different disks."""
    found, said = runs.run(tmp_path / "run", 2, 2, last=[f"--workdir={tmp_path / 'elsewhere'}"])
    assert_refused_everywhere(found, said, "is not the same folder to every process")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_hosts_with_different_data_are_refused(runs, tmp_path):
    other, cache = patterns(), tmp_path / "other"
    other.images[0] += 1
    cache.mkdir()
    dataset.save(other, cache / f"glyphs-{SIZE}px-v1.npz")
    found, said = runs.run(tmp_path / "run", 2, 2, last=[f"--config.data.cache_dir={cache}"])
    assert_refused_everywhere(found, said, "the data set of process(es) 1 differs")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_with_two_devices_compute_what_one_does(runs, tmp_path, undisturbed):
    workdir = tmp_path / "run"
    found, said = runs.run(workdir, 2, 4)
    assert found == [0, 0], said
    assert_same_run(workdir, undisturbed)
    hardware = json.loads((workdir / "results.json").read_text())["hardware"]
    assert (hardware["devices"], hardware["processes"]) == (4, 2)
    assert "Test accuracy" in said[0]
    assert "Test accuracy" not in said[1]
    # Given again, a finished run is only reported; its test under other conditions is shared too.
    found, said = runs.run(workdir, 2, 4)
    assert found == [0, 0], said
    assert ["Test accuracy" in text for text in said] == [True, False]
    flags = ["--mode=evaluate", "--way=2", "--statistics=batch"]
    reference = shutil.copytree(undisturbed, tmp_path / "reference")
    for folder, count in ((workdir, 2), (reference, 1)):
        found, said = runs.run(folder, count, 0, *flags, config=False)
        assert found == [0] * count, said
    assert_same_run(workdir, reference)


@pytest.mark.slow
def test_four_processes_compute_what_one_does(runs, tmp_path, undisturbed):
    found, said = runs.run(tmp_path / "run", 4, 0)
    assert found == [0] * 4, said
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_dry_run_of_two_processes_is_told_once(runs, tmp_path):
    found, said = runs.run(tmp_path / "run", 2, 2, "--dry_run")
    assert found == [0, 0], said
    assert "2 x cpu in 2 processes" in said[0]
    assert "Schedule" not in said[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "devices", "victim"), [(2, 4, 1), (2, 4, 0), (4, 4, 2)])
def test_when_one_is_killed_the_others_end_and_one_device_goes_on(
    runs, tmp_path, undisturbed, count, devices, victim
):
    workdir = tmp_path / "run"
    commands = runs.commands(workdir, count, devices)
    with started(commands, tmp_path / "killed", **runs.environment) as running:
        end = time.monotonic() + TIMEOUT
        # Second-order steps are compiled after the first epoch: the run is far from its end.
        while not (workdir / "checkpoints" / "5").is_dir() and time.monotonic() < end:
            assert all(process.poll() is None for process in running), logs(tmp_path / "killed")
            time.sleep(0.05)
        running[victim].send_signal(signal.SIGKILL)
        found = codes(running, LOST_TIMEOUT)
    assert found[victim] == -signal.SIGKILL
    assert all(code != 0 for code in found)
    assert not (workdir / "results.json").exists()
    found, said = runs.run(workdir, 1, 1)
    assert found == [0], said
    assert "resuming after outer step" in said[0]
    assert_same_run(workdir, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("told", [[0], [1], [0, 1]])
def test_a_signal_to_any_process_saves_and_ends_all(runs, tmp_path, undisturbed, told):
    workdir = tmp_path / "run"
    commands = runs.commands(workdir, 2, 4)
    with started(commands, tmp_path / "told", **runs.environment) as running:
        end = time.monotonic() + TIMEOUT
        while not (workdir / "checkpoints" / "5").is_dir() and time.monotonic() < end:
            assert all(process.poll() is None for process in running), logs(tmp_path / "told")
            time.sleep(0.05)
        for process in told:
            running[process].send_signal(signal.SIGTERM)
        found = codes(running, TIMEOUT)
    said = logs(tmp_path / "told")
    assert found == [STOPPED_EXIT_CODE] * 2, said
    assert all("saved after outer step" in text for text in said), said
    assert not (workdir / "results.json").exists()
    found, said = runs.run(workdir, 2, 4)
    assert found == [0, 0], said
    assert_same_run(workdir, undisturbed)


@pytest.mark.slow
def test_a_run_of_one_device_goes_on_with_two_processes(runs, tmp_path, undisturbed):
    workdir = tmp_path / "run"
    with started(runs.commands(workdir, 1, 1), tmp_path / "killed", **runs.environment) as running:
        end = time.monotonic() + TIMEOUT
        while not (workdir / "checkpoints" / "5").is_dir() and time.monotonic() < end:
            assert running[0].poll() is None, logs(tmp_path / "killed")
            time.sleep(0.05)
        running[0].kill()
    found, said = runs.run(workdir, 2, 4)
    assert found == [0, 0], said
    assert "resuming after outer step" in said[0]
    assert_same_run(workdir, undisturbed)
