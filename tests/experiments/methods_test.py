"""The table of methods: what is missing is made in order, and what is kept is in the table."""

import json

import pytest

from experiments import methods
from mamlpp_jax.config import default_config
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE
from tests.helpers.sample_results import ROW


def fake_keep(monkeypatch, kept):
    monkeypatch.setattr(methods, "keep", lambda workdir, output, small: kept.append(output.name))


def test_what_is_missing_is_made_in_order_and_what_is_kept_is_not(tmp_path, monkeypatch):
    results, kept, commands = tmp_path / "results", [], []
    (results / "anil").mkdir(parents=True)
    (results / "anil" / "results.json").write_text("{}")
    fake_keep(monkeypatch, kept)

    def launch(command, log):
        assert log.parent.is_dir()
        commands.append(command)
        return 2 if "boil" in command[-1] else 0

    names = ["maml", "anil", "boil", "reptile"]
    assert methods.make_runs(names, tmp_path / "runs", results, launch) == 1
    assert kept == ["maml", "reptile"]
    assert [len(commands), commands[0][-1]] == [3, "--config=configs/quickstart.py:method=maml"]
    assert commands[2][-1].startswith("--config.train.epochs=")


def test_a_stopped_run_ends_the_command(tmp_path, monkeypatch):
    kept, calls = [], []
    fake_keep(monkeypatch, kept)

    def launch(command, log):
        calls.append(command)
        return STOPPED_EXIT_CODE

    code = methods.make_runs(["maml", "anil"], tmp_path / "runs", tmp_path / "results", launch)
    assert (code, len(calls), kept) == (STOPPED_EXIT_CODE, 1, [])


def test_the_table_has_what_is_kept_and_says_what_is_missing(tmp_path):
    (tmp_path / "anil").mkdir()
    tests = [{**ROW, "model": "ensemble", "accuracy": 0.95, "ci95": 0.0123}, ROW]
    config = default_config().to_dict()
    results = {"steps": 500, "finished": True, "test": tests, "config": config}
    (tmp_path / "anil" / "results.json").write_text(json.dumps(results))
    costs = {"ms_per_step": {"anil": 12.3}, "extra_parameters": {"anil": -1234}}
    (tmp_path / methods.COSTS_FILE).write_text(json.dumps(costs))
    lines = methods.table(tmp_path).splitlines()
    rows = {line.split("|")[1].strip(" `"): line for line in lines[2:]}
    assert list(rows) == list(methods.METHODS)
    cells = [cell.strip() for cell in rows["anil"].split("|")[2:-1]]
    assert cells == ["500", "95.00 ± 1.23", "", "12", "-1,234"]
    assert rows["maml"].count(methods.MISSING) == 5


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
