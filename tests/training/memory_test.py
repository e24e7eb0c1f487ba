"""What cannot fit into memory is refused by name before anything is made, and what fits is not."""

import json
import pathlib
import types

import jax
import pytest

from mamlpp_jax.config import apply_method, default_config
from mamlpp_jax.training import memory
from mamlpp_jax.training.memory import check_memory, estimate
from tests.helpers.refusals import refused
from tests.helpers.small_runs import small_config

MEASURED = pathlib.Path(__file__).parents[2] / "experiments/results/benchmark_cpu/benchmark.json"


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 8 * 2**30)


ABSURD = {
    "model.filters": 2_000_000_000,
    "data.image_size": 2**20,
    "task.way": 2**31 - 1,
    "task.shot": 10**9,
    "task.query": 10**9,
    "train.inner_steps": 10_000,
    "evaluation.tasks": 2**28,
    "train.epochs": 2**31 - 1,
    "train.steps_per_epoch": 2**31 - 1,
}


@pytest.mark.parametrize("field", ABSURD)
def test_the_field_that_makes_a_run_too_large_is_named(tmp_path, field):
    config = default_config()
    config.update_from_flattened_dict({field: ABSURD[field]})
    with refused(
        tmp_path,
        r"needs [\d.,]+ [GTP]iB of memory or more, but this machine has 8\.0 GiB: ",
        f"large because of config.{field}={ABSURD[field]}; use smaller values",
    ):
        check_memory(config, channels=1)


def test_tasks_computed_together_count_together(tmp_path):
    fields = {"train.tasks_per_step": 2**16, "compute.tasks_per_chunk": 2**16}
    with refused(tmp_path, "config.compute.tasks_per_chunk=65536"):
        check_memory(small_config(**{**fields, "model.filters": 64}), channels=1)
    check_memory(small_config(**{**fields, "compute.tasks_per_chunk": 1}), channels=1)


def test_several_fields_that_are_large_only_together_are_named(tmp_path):
    fields = {"model.filters": 1024, "task.way": 100, "task.shot": 20, "data.image_size": 84}
    with refused(tmp_path, *(f"config.{field}={value}" for field, value in fields.items())):
        check_memory(small_config(**fields), channels=3)


def test_anil_keeps_the_activations_of_one_pass_where_the_body_is_fixed():
    def of(method):
        config = small_config(method, **{"train.inner_steps": 100, "data.image_size": 64})
        return estimate(config, 1)["what is computed of a task"]

    assert of("anil") < of("maml") / 20
    assert of("anil+bnwb") == of("maml+bnwb")


def test_an_evaluation_needs_no_gradient(tmp_path):
    fields = {"task.way": 100, "task.query": 100, "evaluation.tasks": 2000}
    with refused(tmp_path, "for the predictions on the test tasks", r"config\.task\.way=100"):
        check_memory(small_config(**fields), channels=1, training=False)
    many_steps = small_config(**{"train.inner_steps": 10_000, "model.filters": 64, "task.shot": 5})
    check_memory(many_steps, channels=1, training=False)
    with refused(tmp_path, r"inner_steps=10000; use .*, or config\.compute\.remat=True"):
        check_memory(many_steps, channels=1)


def test_a_device_with_memory_of_its_own_counts(tmp_path, monkeypatch):
    device = types.SimpleNamespace(
        device_kind="GPU X", memory_stats=lambda: {"bytes_limit": 2 * 2**20}
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(memory, "estimate", lambda *_, **__: {"all": 3 * 2**20})
    with refused(tmp_path, r"a GPU X has 2\.0 MiB"):
        check_memory(small_config(), channels=1)
    device.memory_stats = lambda: None
    check_memory(small_config(), channels=1)


def test_where_the_memory_is_unknown_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 0)
    check_memory(small_config(**{"model.filters": 10**6}), channels=1)


SECTIONS = ("implementations", "table 3", "scaling", "memory", "compile")


def measured():
    """Cases whose memory the compiler has stated, every seventh of them."""
    rows = [
        row
        for row in json.loads(MEASURED.read_text())
        if row["implementation"] == "ours" and row["peak_mib"] and row["section"] in SECTIONS
    ]
    return rows[::7]


@pytest.mark.parametrize("row", measured(), ids=lambda row: f"{row['case']}-{row['peak_mib']}")
def test_the_estimate_is_below_what_the_compiler_states_and_not_far(row):
    config = default_config()
    apply_method(config, row["method"])
    is_colour = "mini" in row["case"]
    if is_colour:
        config.data.image_size, config.model.filters, config.task.query = 84, 48, 15
    config.task.way, config.task.shot = row["way"], row["shot"]
    config.train.inner_steps = row["inner_steps"]
    config.train.first_order_epochs = 0 if row["order"] == 2 else config.train.epochs
    config.train.multi_step_epochs = 10 if row["multi_step"] else 0
    config.compute.remat, config.compute.tasks_per_chunk = row["remat"], row["chunk"] or 0
    config.evaluation.tasks = 2  # the benchmark trains only
    task = estimate(config, 3 if is_colour else 1)["what is computed of a task"] / 2**20
    assert 0.15 * row["peak_mib"] < task < 0.6 * row["peak_mib"]
