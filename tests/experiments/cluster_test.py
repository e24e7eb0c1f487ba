"""The example job scripts, as far as a shell without a cluster can run them."""

import os
import pathlib
import re
import runpy
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ROOT / "experiments" / "cluster"
RUNS_PER_ARRAY = 84


@pytest.fixture
def cluster(tmp_path):
    """Runs a script where `srun` and `scontrol` note their arguments; `srun` ends as it is told to."""
    note = tmp_path / "called"
    for tool, end in (("srun", "exit ${SRUN_STATUS:-0}"), ("scontrol", "")):
        stub = tmp_path / "bin" / tool
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f'#!/bin/sh\nprintf "%s\\n" {tool} "$@" >> "{note}"\n{end}\n')
        stub.chmod(0o755)

    def run(script, *arguments, **environment):
        note.unlink(missing_ok=True)
        # sbatch runs a copy from elsewhere, in the folder it was called from.
        copy = tmp_path / "slurm_script"
        copy.write_bytes((SCRIPTS / script).read_bytes())
        done = subprocess.run(
            ["bash", copy, *arguments],
            cwd=ROOT,
            env={"PATH": f"{stub.parent}:{os.environ['PATH']}", "PYTHON": "py", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, note.read_text().splitlines() if note.exists() else []

    return run


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_valid(script):
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")


def program_flags(called):
    return dict(flag.split("=", 1) for flag in called if flag.startswith(("--config", "--workdir")))


def test_an_index_is_one_configuration_and_seed(cluster):
    done, called = cluster("array.sh", "--config.train.epochs=3", SLURM_ARRAY_TASK_ID="22")
    assert done.returncode == 0, done.stderr
    assert called == [
        "srun",
        "--kill-on-bad-exit=0",
        "--cpus-per-task=1",
        "--ntasks=1",
        "py",
        "-m",
        "mamlpp_jax.main",
        "--config=configs/omniglot.py:way=5,shot=5,method=maml,seed=1",
        "--workdir=runs/omniglot-way5shot5-maml-seed1",
        "--config.train.epochs=3",
    ]


def test_every_index_is_another_run_that_its_configuration_file_takes(cluster):
    get_config = runpy.run_path(str(ROOT / "configs" / "omniglot.py"))["get_config"]
    seen = set()
    for index in range(RUNS_PER_ARRAY):
        done, called = cluster("array.sh", SLURM_ARRAY_TASK_ID=str(index), RUNS="/shared/runs")
        assert done.returncode == 0, done.stderr
        flags = program_flags(called)
        assert flags["--workdir"].startswith("/shared/runs/")
        config = get_config(flags["--config"].partition(":")[2])
        run = (config.task.way, config.task.shot, config.method, config.seed)
        seen.add((*run, flags["--workdir"]))
    assert len(seen) == len({run[:4] for run in seen}) == len({run[4] for run in seen})
    assert len(seen) == RUNS_PER_ARRAY
    assert f"#SBATCH --array=0-{RUNS_PER_ARRAY - 1}\n" in (SCRIPTS / "array.sh").read_text()


@pytest.mark.parametrize("index", ["84", "-1", "x", ""])
def test_an_index_without_a_run_is_refused(cluster, index):
    done, called = cluster("array.sh", SLURM_ARRAY_TASK_ID=index)
    assert done.returncode != 0
    assert "SLURM_ARRAY_TASK_ID" in done.stderr
    assert called == []


@pytest.mark.parametrize(("status", "again"), [(0, False), (75, True), (2, False), (134, False)])
def test_only_a_job_that_saved_and_stopped_goes_back_into_the_queue(cluster, status, again):
    given = {"SRUN_STATUS": str(status), "SLURM_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "0"}
    done, called = cluster("array.sh", **given)
    assert done.returncode == status
    assert (called[-3:] == ["scontrol", "requeue", "77"]) == again
    assert called.count("srun") == 1


def test_a_job_over_several_hosts_joins_its_processes(cluster):
    done, called = cluster("multi_host.sh", "--config=configs/omniglot.py:way=20")
    assert done.returncode == 0, done.stderr
    assert called[-2:] == ["--distributed", "--config=configs/omniglot.py:way=20"]
    assert called[-5:-2] == ["py", "-m", "mamlpp_jax.main"]
    # Each process must see all GPUs of its node.
    assert not [option for option in called if option.startswith("--gpu")]
    refused, called = cluster("multi_host.sh")
    assert refused.returncode == 2
    assert "--config" in refused.stderr
    assert called == []


@pytest.mark.parametrize(
    ("script", "environment"),
    [
        ("array.sh", {"SLURM_ARRAY_TASK_ID": "0"}),
        ("multi_host.sh", {}),
    ],
)
def test_a_process_gets_the_cores_its_job_was_given(cluster, script, environment):
    done, called = cluster(script, "--x", SLURM_CPUS_PER_TASK="6", **environment)
    assert done.returncode == 0, done.stderr
    assert "--cpus-per-task=6" in called


def test_the_documented_jobs_show_every_gpu_of_a_node_to_each_of_its_processes():
    text = (SCRIPTS / "multi_host.sh").read_text()
    (command,) = re.findall(r"^#   sbatch (.*--gpus.*)$", text, re.MULTILINE)
    options = dict(re.findall(r"--([\w-]+)=(\d+)", command))
    assert options["gpus-per-node"] == options["ntasks-per-node"]
    assert "gpus-per-task" not in options


@pytest.mark.parametrize("script", ["array.sh", "multi_host.sh"])
def test_jobs_are_requeued_and_told_before_their_time_is_up(script):
    text = (SCRIPTS / script).read_text()
    for option in ("--requeue", "--signal=TERM@300", "--open-mode=append"):
        assert f"#SBATCH {option}\n" in text
