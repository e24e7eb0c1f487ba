"""The sweep: what is missing is run in order, what is kept is skipped, and it can be stopped at any time."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments.launcher import Launcher
from experiments.paper.runs import load_runs
from experiments.paper.sweep import Sweep
from mamlpp_jax.errors import WorkdirError

ROOT = pathlib.Path(__file__).parents[2]
RUNS = load_runs("table4", "short")[:3]
DIVERGED = "loss is nan at outer step 7 (epoch 0); the checkpoints saved before it are untouched."


class Programs:
    """Stands in for the launcher: plays `mamlpp_jax.main` and `experiments.paper.keep`.

    Attributes:
        launched: (program, run), in order.
        codes: exit codes of trainings to come; 0 when there are none left.
        says: what a training that ends with another code prints.
        statistics: that the runs are configured to be tested with.
    """

    def __init__(self, codes=(), says="", statistics="batch"):
        self.launched, self.codes, self.says = [], list(codes), says
        self.statistics = statistics

    def __call__(self, command, log):
        arguments = [word for word in command[3:] if not word.startswith("--config")]
        if command[2] == "experiments.paper.keep":
            return self._keep(*map(pathlib.Path, arguments[:2]), failure=arguments[2])
        workdir = pathlib.Path(arguments[0].removeprefix("--workdir="))
        given = dict(word[2:].split("=", 1) for word in arguments)
        kind = "evaluate" if "mode" in given else "train"
        self.launched.append((kind, workdir.name))
        code = self.codes.pop(0) if self.codes else 0
        with log.open("a") as file:
            file.write(f"{self.says}\n" if code else "fine\n")
        if code == 0:
            usual = {"tasks": 600, "inner_steps": 5, "way": 5, "query": 1}
            tested = {key: int(given.get(key, number)) for key, number in usual.items()}
            if "rotated" in given:
                tested["rotated"] = {"true": "yes", "false": "no"}[given["rotated"]]
            modes = given.get("statistics", "batch").split(",")
            self._write_results(workdir, [{**tested, "eval_statistics": mode} for mode in modes])
        return code

    def _write_results(self, workdir, tested):
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "results.json"
        known = json.loads(path.read_text())["test"] if path.exists() else []
        task = {"way": 5, "shot": 1, "query": 1}
        norm = {"train_statistics": "batch", "eval_statistics": self.statistics}
        config = {"train": {"inner_steps": 5}, "evaluation": {"tasks": 600}}
        config |= {
            "task": task,
            "norm": norm,
            "data": {"rotations": True, "rotate_evaluation": True},
        }
        rows = [{**task, **row} for row in tested]
        results = {"finished": True, "config": config, "test": [*known, *rows]}
        path.write_text(json.dumps(results))

    def _keep(self, workdir, output, failure):
        self.launched.append(("keep", output.name))
        output.mkdir(parents=True, exist_ok=True)
        if failure:
            (output / "failure.txt").write_text(failure)
        else:
            (output / "results.json").write_bytes((workdir / "results.json").read_bytes())
        return 0


def sweep_of(tmp_path, programs, *tests, **options):
    folders = tmp_path / "workdirs", tmp_path / "results"
    return Sweep(*folders, programs, tests=tests or ({},), **options)


def steps(programs, *names):
    return [step for name in names for step in (("train", name), ("keep", name))]


def test_runs_are_made_in_order_and_skipped_when_kept(tmp_path):
    programs = Programs()
    assert sweep_of(tmp_path, programs)(RUNS[1:2]) == 0
    assert sweep_of(tmp_path, programs)(RUNS) == 0
    assert programs.launched == steps(programs, *(RUNS[i].name for i in (1, 0, 2)))


def test_a_stopped_run_ends_the_sweep_and_the_next_one_goes_on(tmp_path):
    programs = Programs(codes=[0, 75])
    assert sweep_of(tmp_path, programs)(RUNS) == 75
    assert programs.launched == [*steps(programs, RUNS[0].name), ("train", RUNS[1].name)]
    programs.launched.clear()
    assert sweep_of(tmp_path, programs)(RUNS) == 0
    assert programs.launched == steps(programs, RUNS[1].name, RUNS[2].name)


def test_runs_are_made_several_at_a_time_and_no_more(tmp_path):
    programs, together, lock = Programs(), threading.Barrier(2, timeout=30), threading.Lock()
    under_way, most = 0, 0

    def launch(command, log):
        nonlocal under_way, most
        if command[2] == "mamlpp_jax.main":
            with lock:
                under_way += 1
                most = max(most, under_way)
            together.wait()  # for another one that is under way
            with lock:
                under_way -= 1
        return programs(command, log)

    sweep = sweep_of(tmp_path, launch, at_once=2)
    assert sweep([*RUNS, load_runs("table4", "short")[3]]) == 0
    assert most == 2
    assert len(programs.launched) == 8


def test_a_stop_ends_those_that_are_made_together_and_begins_no_other(tmp_path):
    programs = Programs(codes=[75, 75])
    assert sweep_of(tmp_path, programs, at_once=2)(RUNS) == 75
    assert {kind for kind, _ in programs.launched} == {"train"}
    assert RUNS[2].name not in {name for _, name in programs.launched}


@pytest.mark.parametrize("at_once", [1, 2])
def test_after_an_error_of_the_sweep_itself_no_other_run_begins(tmp_path, at_once):
    programs = Programs()
    broken = tmp_path / "results" / RUNS[0].name / "results.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")

    def launch(command, log):
        time.sleep(0.2)  # longer than it takes to find the error
        return programs(command, log)

    with pytest.raises(WorkdirError, match=r"results\.json"):
        sweep_of(tmp_path, launch, at_once=at_once)(RUNS)
    assert len({name for _, name in programs.launched}) < at_once


def test_a_diverged_run_is_kept_as_such_and_not_repeated(tmp_path):
    programs = Programs(codes=[2], says=f"error: {DIVERGED}")
    sweep = sweep_of(tmp_path, programs)
    assert sweep(RUNS[:2]) == 0
    assert (sweep.results / RUNS[0].name / "failure.txt").read_text() == DIVERGED
    assert all(map(sweep.is_done, RUNS[:2]))


@pytest.mark.parametrize(("code", "says"), [(2, "error: no space left"), (1, f"error: {DIVERGED}")])
def test_any_other_failure_is_reported_and_tried_again(tmp_path, code, says):
    programs = Programs(codes=[code], says=says)
    assert sweep_of(tmp_path, programs)(RUNS[:2]) == 1
    programs.launched.clear()
    assert sweep_of(tmp_path, programs)(RUNS[:2]) == 0
    assert programs.launched == steps(programs, RUNS[0].name)


def test_an_earlier_divergence_in_the_log_is_not_taken_for_this_failure(tmp_path):
    programs = Programs(codes=[2], says="error: no space left")
    log = tmp_path / "workdirs" / f"{RUNS[0].name}.log"
    log.parent.mkdir()
    log.write_text(f"error: {DIVERGED}\n")
    assert sweep_of(tmp_path, programs)(RUNS[:1]) == 1


def test_a_test_on_more_tasks_is_added_once(tmp_path):
    programs = Programs()
    sweep_of(tmp_path, programs)(RUNS[:1])
    programs.launched.clear()
    for _ in range(2):
        assert sweep_of(tmp_path, programs, {"tasks": 6000})(RUNS[:1]) == 0
    name = RUNS[0].name
    assert programs.launched == [("train", name), ("evaluate", name), ("keep", name)]


def test_tests_under_other_conditions_are_added_to_that_on_more_tasks(tmp_path):
    programs = Programs()
    more = {"tasks": 6000}
    others = ({"inner_steps": 10}, {"way": 20}, {"query": 10}, {"rotated": "other"})
    sweep = sweep_of(tmp_path, programs, more, *({**more, **other} for other in others))
    assert sweep(RUNS[:1]) == sweep(RUNS[:1]) == 0
    name = RUNS[0].name
    assert programs.launched == [("train", name), *[("evaluate", name)] * 5, ("keep", name)]
    tests = json.loads((sweep.results / name / "results.json").read_text())["test"]
    columns = ("tasks", "inner_steps", "way", "query", "rotated")
    assert [tuple(row.get(column, "") for column in columns) for row in tests] == [
        (600, 5, 5, 1, ""),
        (6000, 5, 5, 1, ""),
        (6000, 10, 5, 1, ""),
        (6000, 5, 20, 1, ""),
        (6000, 5, 5, 10, ""),
        (6000, 5, 5, 1, "no"),
    ]


def test_a_test_of_other_statistics_or_data_is_not_taken_for_a_wanted_one(tmp_path):
    programs = Programs(statistics="batch,support,running")
    sweep = sweep_of(tmp_path, programs, {"tasks": 6000})
    sweep(RUNS[:1])
    path = sweep.workdirs / RUNS[0].name / "results.json"
    results = json.loads(path.read_text())
    wanted = [row["eval_statistics"] for row in results["test"] if row["tasks"] == 6000]
    assert wanted == ["batch", "support"]
    kept = sweep.results / RUNS[0].name / "results.json"
    for other in ({"eval_statistics": "running"}, {"data": "birds"}, {"shot": 5}):
        changed = [{**row, **other} if row["tasks"] == 6000 else row for row in results["test"]]
        kept.write_text(json.dumps({**results, "test": changed}))
        assert not sweep.is_done(RUNS[0])


def test_a_kept_run_without_its_workdir_is_not_trained_again_for_a_test(tmp_path):
    programs = Programs()
    sweep_of(tmp_path, programs)(RUNS[:2])
    programs.launched.clear()
    shutil.rmtree(tmp_path / "workdirs" / RUNS[0].name)
    sweep = sweep_of(tmp_path, programs, {"tasks": 6000})
    before = (sweep.results / RUNS[0].name / "results.json").read_bytes()
    assert sweep(RUNS[:2]) == 1
    name = RUNS[1].name
    assert programs.launched == [("train", name), ("evaluate", name), ("keep", name)]
    assert (sweep.results / RUNS[0].name / "results.json").read_bytes() == before


def test_further_flags_are_for_trainings(tmp_path):
    programs, further = Programs(), ["--config.log.tensorboard=False"]
    assert sweep_of(tmp_path, programs, further=further).train_command(RUNS[0])[-1:] == further
    tests = []

    def launch(command, log):
        tests.extend(word for word in command if "evaluate" in word or "tensorboard" in word)
        return programs(command, log)

    sweep_of(tmp_path, launch, {"tasks": 6000}, further=further)(RUNS[:1])
    assert tests == [*further, "--mode=evaluate"]


def test_images_come_from_the_data_folder_where_it_has_them(tmp_path, monkeypatch):
    sweep = sweep_of(tmp_path, Programs())
    monkeypatch.delenv("MAMLPP_DATA_DIR", raising=False)
    assert not any("manual_dir" in word for word in sweep.train_command(RUNS[0]))
    monkeypatch.setenv("MAMLPP_DATA_DIR", str(tmp_path))
    assert not any("manual_dir" in word for word in sweep.train_command(RUNS[0]))
    (tmp_path / "omniglot").mkdir()
    assert sweep.train_command(RUNS[0])[-1] == f"--config.data.manual_dir={tmp_path / 'omniglot'}"


PATIENT = """
import pathlib, signal, sys, time
def save(number, frame):
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("count", [1, 3])
def test_a_stop_is_passed_on_awaited_and_final(tmp_path, count):
    launcher, logs = Launcher(), [tmp_path / f"log{i}" for i in range(count)]

    def stop_when_ready():
        for log in logs:
            wait_for(lambda log=log: log.exists() and "ready" in log.read_text())
        launcher.stop(signal.SIGTERM, None)

    def run(log):
        return launcher([sys.executable, "-c", PATIENT, str(log.with_suffix(".state"))], log)

    thread = threading.Thread(target=stop_when_ready)
    thread.start()
    with ThreadPoolExecutor(count) as pool:
        codes = list(pool.map(run, logs))
    thread.join()
    assert codes == [75] * count
    assert all(log.with_suffix(".state").read_text() == "saved" for log in logs)
    assert launcher([sys.executable, "-c", "print('begun')"], logs[0]) == 75
    assert "begun" not in logs[0].read_text()


def test_signals_stop_the_launcher_while_it_listens_and_are_as_before_afterwards(tmp_path):
    before, launcher = signal.getsignal(signal.SIGTERM), Launcher()
    with launcher.listening():
        signal.raise_signal(signal.SIGTERM)
    assert launcher([sys.executable, "-c", "print('begun')"], tmp_path / "log") == 75
    assert signal.getsignal(signal.SIGTERM) is before


def test_exit_codes_and_output_of_commands(tmp_path):
    command = [sys.executable, "-c", "import sys; print('out'); sys.exit('error: bad')"]
    assert Launcher()(command, tmp_path / "log") == 1
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["error: bad", "out"]


def sweep_command(*flags):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAMLPP_")}
    return subprocess.run(
        [sys.executable, "-m", "experiments.paper.sweep", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_commands_are_printed_and_nothing_is_run(tmp_path):
    flags = [f"--workdirs={tmp_path}/w", f"--results={tmp_path}/r", "--print_commands"]
    printed = sweep_command("--list=table4", "--seeds=2", "--protocol=short", *flags)
    lines = printed.stdout.splitlines()
    assert len(lines) == 4
    assert all("seed=2" in line and "protocol=short" in line for line in lines)
    assert lines[0].split()[1:3] == ["-m", "mamlpp_jax.main"]
    assert not list(tmp_path.iterdir())


def test_flags_for_trainings_stand_behind_two_dashes(tmp_path):
    flags = [f"--workdirs={tmp_path}/w", f"--results={tmp_path}/r", "--print_commands", "--seeds=2"]
    given = ["--list=table4", *flags]
    further = ["--config.log.tensorboard=False", "--max_minutes=9"]
    printed = sweep_command(*given, "--", *further).stdout.splitlines()
    assert printed
    assert all(line.split()[-2:] == further for line in printed)
    refused = sweep_command(*given, "table1", "--", *further)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: 'table1' is not a flag")


def test_bad_input_is_one_paragraph():
    failed = sweep_command("--list=nowhere")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: --list is 'nowhere'")
    assert sweep_command("--seeds=x").stderr.startswith("error: --seeds is x")
