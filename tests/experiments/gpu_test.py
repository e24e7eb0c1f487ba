"""The GPU report: its jobs run, resume and are reported; the training goes from machine to machine in an archive."""

import importlib
import sys
import time

import pytest

from experiments.benchmark_rows import Case, Row, make_config
from experiments.gpu import bench, checks, jobs as jobs_lib, training
from experiments.gpu.jobs import Job, Ledger, run_jobs
from experiments.gpu.report import write_gpu_report
from mamlpp_jax.config import validation
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.ops import conv_products
from mamlpp_jax.ops.conv import IMPL_NAMES
from tests.ops.conv_test import CASES

GOOD = Job("good", "json:dumps", {"obj": [1]})
BAD = Job("bad", "json:loads", {"s": "{"})
CRASH = Job("crash", "os:_exit", {"status": 3})
SLOW = Job("slow", "subprocess:check_call", {"args": ["sleep", "60"]}, limit=0.2)


def run(jobs, seconds=60, workers=2):
    found = {}
    finished = run_jobs(
        jobs,
        lambda record: found.update({record["job"]: record}),
        workers=workers,
        deadline=time.monotonic() + seconds,
    )
    return finished, found


@pytest.mark.parametrize("workers", [1, 3])
def test_a_job_that_fails_crashes_or_hangs_costs_no_other(workers):
    later = GOOD._replace(name="later")
    finished, found = run([BAD, CRASH, SLOW, GOOD, later], workers=workers)
    assert finished
    assert {name: record["status"] for name, record in found.items()} == {
        "bad": "failed",
        "crash": "crashed",
        "slow": "timed out",
        "good": "ok",
        "later": "ok",
    }
    assert found["good"]["result"] == "[1]"
    assert "JSONDecodeError" in found["bad"]["error"]
    assert "exit code 3" in found["crash"]["error"]


def test_the_deadline_leaves_what_it_cuts_short_for_the_next_time(monkeypatch):
    monkeypatch.setattr(jobs_lib, "_LEAST_SECONDS", 0.0)
    finished, found = run([SLOW._replace(limit=60), GOOD], seconds=0.5, workers=1)
    assert (finished, found) == (False, {})


def test_no_job_is_begun_shortly_before_the_deadline():
    assert run([GOOD], seconds=5) == (False, {})


def test_what_is_recorded_is_not_run_again(tmp_path):
    ledger = Ledger(tmp_path / "checks.jsonl")
    for name, status in (("good", "ok"), ("bad", "failed"), ("slow", "timed out")):
        ledger.add({"job": name, "status": status, "seconds": 1.0})
    again = Ledger(tmp_path / "checks.jsonl")
    everything = [GOOD, BAD, SLOW, CRASH]
    assert again.unfinished(everything, retry=False) == [CRASH]
    assert again.unfinished(everything, retry=True) == [BAD, SLOW, CRASH]
    again.add({"job": "bad", "status": "ok", "seconds": 1.0})
    assert len((tmp_path / "checks.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("tiny", [False, True])
def test_jobs_are_sound(tiny):
    jobs = [*checks.parity_jobs(tiny), *checks.conv_jobs(tiny), *bench.bench_jobs(tiny)]
    assert len({job.name for job in jobs}) == len(jobs)
    for job in jobs:
        module, function = job.function.split(":")
        assert callable(getattr(importlib.import_module(module), function))
        if function == "row":
            fields = {
                name.replace("__", "."): value
                for name, value in job.arguments.items()
                if "__" in name
            }
            make_config(Case(**job.arguments["case"]), fields=fields)


def test_every_way_of_computing_a_convolution_is_checked_and_timed():
    timed = {job.arguments.get("model__conv") for job in bench.bench_jobs(False)}
    assert set(IMPL_NAMES) - timed == {"auto", "patches"}  # which are the same on a GPU
    checked = {(job.arguments["kind"], job.arguments["shape"]) for job in checks.conv_jobs(False)}
    assert {
        (kind, case) for kind in set(IMPL_NAMES) - {"auto", "direct"} for case in CASES
    } <= checked


def test_a_convolution_is_compared_and_reported():
    (job,) = [job for job in checks.conv_jobs(True) if job.arguments["kind"] == "patches"]
    errors = checks.conv(**job.arguments)["errors"]
    assert 0 < errors["float64"] < 1e-12 < errors["float32, highest"] < 1e-4


def test_a_convolution_that_is_off_fails_with_its_errors(monkeypatch):
    """Products of float32 factors: right in float32, and not in float64."""
    (job,) = [job for job in checks.conv_jobs(True) if job.arguments["kind"] == "patches"]
    product = conv_products.multiply
    monkeypatch.setattr(
        conv_products, "multiply", lambda x, w: product(x, w.astype("float32").astype(w.dtype))
    )
    with pytest.raises(AssertionError, match=r"'float64': .*e-0[789], 'float32, default'"):
        checks.conv(**job.arguments)


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "images.npz").write_bytes(b"images")
    return tmp_path / "images.npz"


def counting(workdir, cache, minutes, tiny, further):
    """Stands for a training that is stopped; it counts how often it was called, or fails."""
    program = (
        "import pathlib, sys; folder = pathlib.Path(sys.argv[1]); folder.mkdir(exist_ok=True);"
        "file = folder / 'calls'; calls = len(file.read_text()) if file.exists() else 0;"
        "file.write_text('x' * (calls + 1)); sys.exit(int(sys.argv[2]))"
    )
    return [sys.executable, "-c", program, str(workdir), *(further or ["75"])]


def test_a_training_goes_on_another_machine(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(training, "command", counting)
    output = tmp_path / "output"
    output.mkdir()
    for machine in ("first", "second"):
        assert not training.train(output, tmp_path / machine, cache, 1.0)
    assert (tmp_path / "second" / "run" / "calls").read_text() == "xx"
    assert training.train(output, tmp_path / "third", cache, 1.0, further=["0"])
    assert {path.name for path in output.iterdir()} == {training.ARCHIVE}
    assert (tmp_path / "third" / "data" / "omniglot-28px-v1.npz").read_bytes() == b"images"


def test_what_another_machine_packed_replaces_what_was_left_here(tmp_path):
    archive, here, there = (
        tmp_path / training.ARCHIVE,
        tmp_path / "here/run",
        tmp_path / "there/run",
    )
    for folder in (here, there):
        folder.mkdir(parents=True)
    (here / "step").write_text("1")
    training.pack(here, archive)
    (here / "step").write_text("2")  # stopped before it was packed
    training.take(archive, here)
    assert (here / "step").read_text() == "2"
    (there / "step").write_text("3")
    training.pack(there, archive)
    training.take(archive, here)
    assert (here / "step").read_text() == "3"


def test_a_training_that_fails_is_kept_as_it_stands(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(training, "command", counting)
    with pytest.raises(RuntimeError, match="exit code 2"):
        training.train(tmp_path, tmp_path / "scratch", cache, 1.0, further=["2"])
    assert (tmp_path / training.ARCHIVE).exists()


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--cache is .*absent\.npz.*mamlpp_jax\.data"):
        training.train(tmp_path, tmp_path / "scratch", tmp_path / "absent.npz", 1.0)


@pytest.mark.parametrize("tiny", [False, True])
def test_the_training_command_sets_fields_that_exist(tmp_path, tiny):
    command = training.command(tmp_path, tmp_path, 8.5, tiny, ["--config.model.conv=grouped"])
    fields = [flag.removeprefix("--config.").split("=")[0] for flag in command if "config." in flag]
    assert "model.conv" in fields
    for field in fields:
        validation.check_field(field)
    assert "--max_minutes=8.50" in command


def ok(result):
    return {"status": "ok", "seconds": 1.0, "result": result}


def row(section, order, multi_step, ms, tasks=16):
    case = bench.MAIN
    found = Row(section, case.name, "ours", "maml++", order, 5, multi_step, tasks, 20, 1)
    found.ms_median, found.gflop = ms, 100.0
    return ok({"device": "card", "row": vars(found)})


def test_the_report_counts_projects_and_lists_what_failed(tmp_path):
    errors = {"float64": 1e-13, "float32, default": 2e-4, "float32, highest": 3e-7}
    conv = {"device": "card", "errors": errors}
    found = {
        "parity/a/auto": ok({"device": "card"}),
        "parity/b/auto": {"status": "failed", "seconds": 2.0, "error": "kernel is off by 0.1"},
        "conv/patches/0": ok(conv),
        "conv/patches/1": ok({**conv, "errors": {**errors, "float64": 5e-13}}),
    }
    timed = {
        "machine": ok(
            {
                "device": "card",
                "commit": "abc",
                "hardware": {"device": "card"},
                "peak_gflops": 50_000,
                "copy_gb_per_s": 3000.0,
                "memory_gib": 60.0,
            }
        ),
        "s1": row("schedule", 1, True, 6.0),
        "s2": row("schedule", 1, False, 3.0),
        "s3": row("schedule", 2, False, 12.0),
        "e": row("evaluation", 1, False, 400.0, tasks=600),
    }
    write_gpu_report(found, timed, tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "Commit abc" in page
    assert "1 of 2 agree" in page
    assert "| patches | 2 of 2 | float64: 5.0e-13" in page
    # 5,000 x 6 + 20,000 x 3 + 50,000 x 12 = 690 s; 150 x 0.4 = 60 s
    assert "11.5 minutes (9.2 ms per step), and 1.0 minutes of validation" in page
    assert "`parity/b/auto`: failed after 2.0 s. kernel is off by 0.1" in page
    assert "several devices" not in page
    # 100 GFLOP in 6 ms are a third of 50 TFLOP/s
    assert " 0.333 |" in (tmp_path / "benchmark.md").read_text()
    found["conv/patches/1"]["result"]["device"] = "another card"
    write_gpu_report(found, timed, tmp_path)
    assert "several devices: another card, card" in (tmp_path / "report.md").read_text()
