"""Several processes that compute one run, on loopback: the same numbers, one writer, and no hang when one is lost."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.data import dataset
from mamlpp_jax.distributed import mesh, processes
from mamlpp_jax.distributed.processes import Group
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE
from tests.helpers.small_runs import SIZE, patterns

ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT = 300  # seconds, for what should end by itself
LOST_TIMEOUT = 60  # by then every process has noticed that one is gone
CONFIG_FILE = """
from tests.helpers.small_runs import small_config

def get_config(argument=None):
    return small_config("maml+da", **{
        "train.epochs": 4, "train.steps_per_epoch": 5, "train.tasks_per_step": 4,
        "evaluation.tasks": 10, "compute.devices": 0, "train.multi_step_epochs": 0,
        "checkpoint.every_minutes": 1e-4})
"""


# --- One process ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (Group(num_processes=2, process_id=0), "--coordinator_address missing"),
        (Group(coordinator_address="a:1"), "--num_processes, --process_id missing"),
        (Group(False, "node1", 2, 0), "--coordinator_address is 'node1'"),
        (Group(False, "a:b:1", 2, 0), "must be HOST:PORT"),
        (Group(False, "node1:12345", 0, 0), "--num_processes is 0"),
        (Group(False, "node1:12345", 2, 2), r"--process_id is 2; .* less 1 \(1\)"),
        (Group(False, "node1:12345", 2, -1), "--process_id is -1"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(group, said):
    with pytest.raises(ConfigError, match=said):
        processes.check_group(group)


@pytest.mark.parametrize(
    "group",
    [
        Group(),
        Group(detect=True),
        Group(True, "node1:12345"),
        Group(False, "[::1]:12345", 4, 3),
        Group(False, "node-1.cluster:1", 1, 0),
    ],
)
def test_flags_that_fit_together(group):
    processes.check_group(group)


def test_one_process_agrees_with_itself():
    assert processes.join(Group()) == 1
    assert not processes.joined()
    assert processes.is_first()
    assert processes.whose() == ""
    assert processes.any_process(True)
    assert not processes.any_process(False)
    processes.check_same("anything", [b"x"], "hint")
    with processes.first_then_others("here"):
        processes.leave()


@pytest.mark.parametrize(
    ("address", "sharing"),
    [("127.0.0.1:9", 4), ("localhost:9", 4), ("[::1]:9", 4), ("10.0.0.1:9", 1), (None, 1)],
)
def test_only_processes_on_a_loopback_address_are_known_to_share_a_host(address, sharing):
    assert processes.sharing_host(Group(coordinator_address=address), 4) == sharing


@pytest.mark.parametrize(
    ("tasks", "devices", "count", "cores", "expected"),
    [(8, 0, 1, 6, 4), (8, 0, 2, 6, 4), (8, 0, 2, 3, 2), (6, 0, 2, 2, 1), (8, 4, 2, 1, 2)],
)
def test_devices_of_each_process(tasks, devices, count, cores, expected):
    assert mesh.cpu_devices(tasks, devices, count, cores) == expected


@pytest.mark.parametrize(
    ("tasks", "devices", "said"),
    [
        (8, 0, "train.tasks_per_step is 8, .* over 3 processes"),
        (6, 2, "compute.devices is 2, .* multiple of 3"),
    ],
)
def test_what_does_not_divide_over_processes_is_refused(tasks, devices, said):
    with pytest.raises(ConfigError, match=said):
        mesh.cpu_devices(tasks, devices, 3, cores=4)


class _Device:
    def __init__(self, number, process_index):
        self.id, self.process_index, self.platform = number, process_index, "fake"


@pytest.mark.parametrize(
    ("owners", "tasks", "devices", "chosen"),
    [
        ([0, 0, 1, 1], 8, 0, [0, 1, 2, 3]),
        ([0, 1, 0, 1], 8, 0, [0, 2, 1, 3]),
        ([0, 0, 1, 1], 6, 0, [0, 2]),
        ([0, 0, 1, 1], 8, 2, [0, 2]),
        ([0, 0, 0, 1, 1], 8, 0, [0, 1, 3, 4]),
    ],
)
def test_a_mesh_has_equally_many_devices_of_every_process(
    monkeypatch, owners, tasks, devices, chosen
):
    available = [_Device(i, owner) for i, owner in enumerate(owners)]
    monkeypatch.setattr(jax, "devices", lambda: available)
    monkeypatch.setattr(mesh, "Mesh", lambda devices, axes: devices)
    assert [device.id for device in mesh.make_mesh(tasks, devices)] == chosen


def test_a_mesh_that_one_process_has_too_few_devices_for_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [_Device(i, int(i > 2)) for i in range(4)])
    with pytest.raises(ConfigError, match=r"config.compute.devices is 4.*use at most 2"):
        mesh.make_mesh(8, 4)


# --- Several processes ----------------------------------------------------------------------------


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def started(commands, folder, **environment):
    """Starts commands at once; kills what is left of them at the end."""
    given = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        running = []
        for i, command in enumerate(commands):
            log = stack.enter_context((folder / f"process{i}.log").open("w"))
            process = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, env=given, stdout=log, stderr=log
            )
            running.append(process)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield running


def codes(running, timeout=TIMEOUT):
    end = time.monotonic() + timeout
    return [process.wait(max(end - time.monotonic(), 0.1)) for process in running]


def logs(folder):
    return [path.read_text() for path in sorted(folder.glob("process*.log"))]


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


HELPERS = """
import sys
import jax
import numpy as np
from mamlpp_jax.distributed import mesh as mesh_lib
from mamlpp_jax.distributed import processes
from mamlpp_jax.errors import ConfigError

rank, folder = int(sys.argv[2]), sys.argv[3]
assert processes.join(processes.Group(False, sys.argv[1], 2, rank)) == 2
jax.config.update("jax_num_cpu_devices", mesh_lib.cpu_devices(8, 4, 2, 1))
assert processes.is_first() == (rank == 0)
assert processes.whose() == f"process {rank} of 2: "

with processes.first_then_others("file"):
    with open(folder + "/order", "a") as file:
        file.write(f"{rank} ")

assert processes.any_process(rank == 1)
assert not processes.any_process(False)
processes.check_same("the same", [b"abc"], "")
try:
    processes.check_same("the key", [b"%d" % rank], "Look at it.")
except ConfigError as error:
    assert "the key of process(es) 1 differs" in str(error), error
else:
    raise AssertionError

mesh = mesh_lib.make_mesh(8)
assert [d.process_index for d in mesh.devices] == [0, 0, 1, 1]
values = np.arange(24).reshape(8, 3)
sharded = mesh_lib.shard_tasks({"a": values}, mesh)
assert not sharded["a"].is_fully_addressable
np.testing.assert_array_equal(mesh_lib.gather_to_host(sharded)["a"], values)
key = jax.random.key(3, impl="threefry2x32")
everywhere = mesh_lib.replicate({"a": values, "key": key}, mesh)
assert mesh_lib.replicate(everywhere, mesh)["a"] is everywhere["a"]
np.testing.assert_array_equal(mesh_lib.gather_to_host(everywhere["a"]), values)
assert (jax.random.bits(everywhere["key"].addressable_data(0)) == jax.random.bits(key)).all()
processes.leave()
assert not processes.joined()
"""


def test_two_processes_agree_place_and_fetch(tmp_path):
    script = tmp_path / "helpers.py"
    script.write_text(HELPERS)
    address = f"127.0.0.1:{free_port()}"
    commands = [[sys.executable, script, address, rank, tmp_path] for rank in range(2)]
    with started(commands, tmp_path) as running:
        assert codes(running, 120) == [0, 0], logs(tmp_path)
    assert (tmp_path / "order").read_text() == "0 1 "


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
    assert "2 x cpu (cpu) in 2 processes" in said[0]
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
