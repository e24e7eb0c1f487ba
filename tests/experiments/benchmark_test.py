"""The benchmark: its operation count, its rows and its report."""

import dataclasses
import json
import pathlib

import pytest

from experiments import benchmark, benchmark_predict
from experiments.benchmark_cases import CASES, Case, count_evaluation_gflop, count_gflop
from experiments.benchmark_costs import evaluation_row
from experiments.benchmark_report import write_report
from experiments.benchmark_rows import Compiled, Row, make_config, ours, time_in_turns
from mamlpp_jax.errors import ConfigError

TINY = Case("tiny", way=2, size=16, filters=2, tasks=2, steps=1)


def test_operations_by_hand():
    """One inner step, one task of two one-pixel-wide classes: every product listed."""
    case = Case("by hand", way=2, shot=3, query=5, size=16, filters=4, tasks=1, steps=1)
    layers = [2 * 256 * 9 * 4] + [2 * n * 9 * 16 for n in (64, 16, 4)] + [2 * 4 * 2]
    first, rest = layers[0], sum(layers[1:])
    support, query = 6, 10
    order_1 = support * (2 * first + 3 * rest) + query * (2 * first + 3 * rest)
    order_2 = order_1 + support * (2 * first + 6 * rest)
    assert count_gflop(case, 1, True) == pytest.approx(order_1 / 1e9)
    assert count_gflop(case, 2, True) == pytest.approx(order_2 / 1e9)
    twice = dataclasses.replace(case, tasks=2, steps=2)
    assert count_gflop(twice, 2, True) == pytest.approx(4 * order_2 / 1e9)
    assert count_gflop(twice, 2, False) < count_gflop(twice, 2, True)
    adapted = support * (2 * first + 3 * rest)
    forward = first + rest
    evaluated = count_evaluation_gflop(case, 7, ["batch"])
    assert evaluated == pytest.approx(7 * (adapted + query * forward) / 1e9)
    with_support = count_evaluation_gflop(case, 7, ["batch", "support"])
    assert with_support == pytest.approx(7 * (adapted + (2 * query + support) * forward) / 1e9)


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_cases_make_valid_configurations(case):
    assert make_config(case, "maml").task.way == case.way


@pytest.mark.slow
def test_a_row_is_measured_and_reported(tmp_path):
    row = ours("implementations", TINY, order=1, fields={"compute.devices": 1})
    assert row.ms_min <= row.ms_median
    assert row.compile_s > 0
    assert row.peak_mib is not None
    other = dataclasses.replace(row, implementation="pytorch", ms_median=3 * row.ms_median)
    write_report(tmp_path, [row, other], {"platform": "cpu"}, 100.0)
    listed = json.loads((tmp_path / "benchmark.json").read_text())
    assert [r["implementation"] for r in listed] == ["ours", "pytorch"]
    assert set(listed[0]) == {field.name for field in dataclasses.fields(Row)}
    page = (tmp_path / "benchmark.md").read_text()
    assert "3.00 times as fast" in page
    assert (tmp_path / "benchmark.png").stat().st_size > 1000


def test_a_validation_is_measured():
    row = evaluation_row(TINY, 4, ["batch", "support"])
    assert (row.tasks, row.note) == (4, "validation, batch and support")
    assert row.ms_min <= row.ms_median
    assert row.gflop is not None


def test_the_annealed_schedule_is_compared_with_maml(tmp_path):
    def row(method, order, multi_step, ms, steps):
        return Row("table 3", "c", "ours", method, order, steps, multi_step, 8, 5, 1, ms_median=ms)

    rows = []
    for steps in (1, 2, 3):
        rows += [
            row("maml", 2, False, 100.0, steps),
            row("maml++", 1, True, 60.0, steps),
            row("maml++", 1, False, 30.0, steps),
            row("maml++", 2, False, 90.0, steps),
            row("maml++", 2, True, 50.0 + 10 * steps, steps),
        ]
    write_report(tmp_path, rows, {}, 1.0)
    page = (tmp_path / "benchmark.md").read_text()
    # (10 * 60 + 40 * 30 + 100 * 90) / 150 = 72
    assert "MAML++ 72.0 ms, MAML 100.0 ms: 0.72 of its cost" in page


def test_predictions_are_timed_in_processes_with_and_without_a_cache(monkeypatch):
    started = []

    def child(command, environment):
        is_cached = "JAX_COMPILATION_CACHE_DIR" in environment
        started.append(is_cached)
        assert (pathlib.Path(command[3]) / "model.safetensors").exists()
        assert command[5:] == ["2", "1", "5"]
        seconds = (4.0 if is_cached else 9.0) + len(started)
        return {"first_s": seconds, "cpu_s": seconds / 2, "ms": [30.0, 20.0, 40.0]}

    monkeypatch.setattr(benchmark_predict, "run_child", child)
    (row,) = benchmark_predict.predictions([TINY])
    assert started == [True] + [False, True] * 3
    assert (row.ms_median, row.ms_min, row.runs) == (30.0, 20.0, 18)
    assert (row.compile_s, row.cached_s) == (9.0 + 2, 4.0 + 3)
    assert "(5.50 of CPU time)" in row.note
    monkeypatch.setattr(benchmark_predict, "run_child", lambda *_: None)
    assert list(benchmark_predict.predictions([TINY])) == [None]


def test_calls_take_turns_after_one_that_warms_up():
    called = []
    times = time_in_turns([lambda: called.append("a"), lambda: called.append("b")], 3)
    assert "".join(called) == "ab" * 4
    assert [len(each) for each in times] == [3, 3]


def test_a_form_that_does_not_compile_costs_no_other_row(monkeypatch):
    def compiled_row(section, case, order, note, fields):
        if fields["model.conv"] == "xla":
            raise RuntimeError("out of memory")
        make_config(case, fields=fields)
        row = Row(section, case.name, "ours", "maml++", order, 5, True, 8, 20, 1, note=note)
        row.conv = fields["model.conv"]
        return row, Compiled(None, lambda: None, 10, 1.0, 1.0)

    monkeypatch.setattr(benchmark, "compiled_row", compiled_row)
    rows = list(benchmark._gpu([TINY]))
    forms = {(row.order, row.conv) for row in rows}
    assert forms == set(benchmark._GPU_FORMS) - {(2, "xla")}
    assert all(row.ms_median is not None for row in rows)


def test_a_field_is_varied(monkeypatch):
    rows = []
    monkeypatch.setattr(benchmark, "ours", lambda *row, **options: rows.append((*row, options)))
    for words in ("tasks=2,4", "compute.remat=False,True", "model.conv=xla"):
        list(benchmark._varied(words)([TINY]))
    assert [row[1].tasks for row in rows[:2]] == [2, 4]
    assert [row[2]["fields"]["compute.remat"] for row in rows[2:4]] == [False, True]
    assert rows[4][2]["fields"] == {"model.conv": "xla"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tasks=many", "'many' is no value of tasks, which is 8 by default"),
        ("tasks", "'' is no value of tasks"),
        ("model.convs=xla", r"model\.convs"),
    ],
)
def test_a_field_that_cannot_be_varied_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        benchmark._varied(words)
