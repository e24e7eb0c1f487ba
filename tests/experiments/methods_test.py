"""The table of methods: what is missing is made in order, and what is kept is in the table."""

import json
import pathlib

import pytest

from experiments import methods
from mamlpp_jax.config import default_config
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE
from tests.helpers.sample_results import ROW


@pytest.fixture
def archived(monkeypatch):
    """The names of the runs that were archived; nothing is copied."""
    names = []

    def archive(workdir, output, failure, small):
        assert small
        assert not failure
        names.append(output.name)

    monkeypatch.setattr(methods, "archive", archive)
    return names


def write_results(folder):
    config = default_config()
    row = {**ROW, "tasks": config.evaluation.tasks, "inner_steps": config.train.inner_steps}
    row |= dict(config.task)
    folder.mkdir(parents=True)
    results = {"finished": True, "config": config.to_dict(), "test": [row]}
    (folder / "results.json").write_text(json.dumps(results))


def sweep_of(tmp_path, launch):
    return methods.MethodSweep(tmp_path / "runs", tmp_path / "results", launch)


def runs_of(*names):
    return [methods.method_run(name) for name in names]


def test_what_is_missing_is_made_in_order_and_what_is_archived_is_not(tmp_path, archived):
    commands = []
    write_results(tmp_path / "results" / "anil")

    def launch(command, log):
        commands.append(command)
        if "boil" in command[4]:
            return 1
        write_results(pathlib.Path(command[3].removeprefix("--workdir=")))
        return 0

    sweep = sweep_of(tmp_path, launch)
    assert sweep(runs_of("maml", "anil", "boil", "reptile")) == 1
    assert archived == ["maml", "reptile"]
    configs = [command[4] for command in commands]
    assert configs[0] == "--config=configs/quickstart.py:method=maml,seed=0"
    assert len(commands) == 3
    assert commands[2][-1].startswith("--config.train.epochs=")


def test_a_stopped_run_ends_the_command(tmp_path, archived):
    calls = []

    def launch(command, log):
        calls.append(command)
        return STOPPED_EXIT_CODE

    code = sweep_of(tmp_path, launch)(runs_of("maml", "anil"))
    assert (code, len(calls), archived) == (STOPPED_EXIT_CODE, 1, [])


def test_every_method_is_archived_with_all_its_tests():
    sweep = methods.MethodSweep(pathlib.Path("nowhere"), methods.RESULTS, launch=None)
    assert all(map(sweep.is_done, runs_of(*methods.METHODS)))


def test_the_table_has_what_is_kept_and_says_what_is_missing(tmp_path):
    (tmp_path / "anil").mkdir()
    tests = [{**ROW, "model": "ensemble", "accuracy": 0.95, "ci95": 0.0123}, ROW]
    config = default_config().to_dict()
    results = {"steps": 500, "seed": 0, "finished": True, "test": tests, "config": config}
    (tmp_path / "anil" / "results.json").write_text(json.dumps(results))
    accuracies = {"boil": (0.9, 0.91, 0.92), "fomaml": (0.93, 0.94, 0.95), "maml": (0.9, 0.9, 0.93)}
    for name, of_seeds in accuracies.items():
        for seed, accuracy in enumerate(of_seeds):
            folder = tmp_path / methods.method_run(name, seed).name
            folder.mkdir()
            results |= {"seed": seed, "test": [{**tests[0], "accuracy": accuracy}]}
            (folder / "results.json").write_text(json.dumps(results))
    costs = {"ms_per_step": {"anil": 12.3}, "extra_parameters": {"anil": -1234}}
    (tmp_path / methods.COSTS_FILE).write_text(json.dumps(costs))
    lines = methods.table(tmp_path).splitlines()
    rows = {line.split("|")[1].strip(" `"): line for line in lines[2:]}
    assert list(rows) == list(methods.METHODS)
    cells = [cell.strip() for cell in rows["anil"].split("|")[2:-1]]
    assert cells == ["500", "0", "95.00 [± 1.23]", "", "12", "-1,234", ""]
    cells = [cell.strip() for cell in rows["boil"].split("|")[2:5]]
    assert cells == ["500", "0, 1, 2", "91.00 ± 1.00"]
    above = {name: rows[name].split("|")[-2].strip() for name in (*accuracies, "reptile")}
    assert above == {"boil": "1 of 3", "fomaml": "3 of 3", "maml": "", "reptile": ""}
    assert rows["reptile"].count(methods.MISSING) == 5


def test_parameters_are_counted_beyond_mamls():
    counts = methods.extra_parameters(["maml", "anil", "metasgd", "sharedhead"])
    tensors = 4 * (9 * 32 + 1) * 32 - 9 * 31 * 32 + (32 + 1) * 5
    assert counts == {"maml": 0, "anil": 0, "metasgd": tensors, "sharedhead": -(32 + 1) * 4}


@pytest.mark.slow
def test_every_method_is_timed(monkeypatch):
    monkeypatch.setattr(methods, "_ROUNDS", 1)
    times = methods.measure_times(["anil", "metasgd"])
    assert list(times) == ["anil", "metasgd"]
    assert min(times.values()) > 0
