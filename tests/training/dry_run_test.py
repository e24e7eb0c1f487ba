"""What a run would do, in words: shapes, counts and the schedule. The whole dry run is in `cli/commands_test`."""

import pytest

from mamlpp_jax.training import dry_run
from tests.helpers.refusals import compilations
from tests.helpers.small_runs import small_experiment


@pytest.fixture(scope="module")
def experiment():
    return small_experiment()


def lines_of(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_every_learned_tensor_is_listed_with_its_shape(experiment):
    before = compilations()
    lines = lines_of(dry_run.describe_model(experiment))
    assert compilations() == before
    assert {"conv0/kernel 3x3x1x4", "linear/bias 3", "norm0/scale 2x4", "conv0/bias 2"} <= set(
        lines
    )
    counts = {
        name: int(line.split()[1].replace(",", ""))
        for line in lines
        for name in ("params", "norm", "inner")
        if line.startswith(f"{name}: ")
    }
    # 4 convolutions and a linear layer; 2 x 4 filters x 4 layers x 2 steps; 10 tensors x 2 steps
    assert counts == {"params": 40 + 3 * 148 + 15, "norm": 64, "inner": 20}
    assert lines[-1] == f"all meta-parameters: {sum(counts.values())}"


def test_the_schedule_names_epochs_outer_steps_and_rates():
    experiment = small_experiment(**{"train.epochs": 4, "train.final_learning_rate": 1e-4})
    assert dry_run.describe_schedule(experiment).splitlines() == [
        "epochs 0-0 (outer steps 1-2): order 1, multi-step loss, outer rate 1.00e-03 -> 8.68e-04",
        "epochs 1-1 (outer steps 3-4): order 2, multi-step loss, outer rate 8.68e-04 -> 5.50e-04",
        "epochs 2-3 (outer steps 5-8): order 2, last-step loss, outer rate 5.50e-04 -> 1.00e-04",
    ]


def test_devices_and_their_shares_are_named():
    text = dry_run.describe_devices(small_experiment(**{"compute.devices": 2}))
    assert text.startswith("2 x cpu, JAX ")
    assert text.endswith(": 2 tasks per outer step, 1 per device, 1 at a time")


def test_a_run_begins_with_a_few_lines(experiment):
    text = dry_run.describe_briefly(experiment)
    assert "small, maml++, seed 0: 3 epochs of 2 outer steps" in text
    assert "3-way 1-shot tasks of glyphs (8 train, 4 val, 4 test classes)" in text
    assert "2 inner steps, 583 meta-parameters" in text


def test_everything_a_dry_run_prints():
    experiment = small_experiment(**{"data.device_limit_mib": 0, "train.epochs": 1})
    text = dry_run.describe(experiment)
    sections = [section.splitlines() for section in text.split("\n\n")]
    assert [title for title, *_ in sections] == [
        "Devices",
        "Data",
        "Tasks",
        "Learned by the outer loop",
        "Schedule (2 outer steps)",
        "Memory",
    ]
    assert all(lines for _, *lines in sections)
    assert "glyphs, 16x16x1: train 8 classes, val 4 classes, test 4 classes; on the host" in text
    assert "3-way 1-shot: 3 support and 3 query images, 2 inner steps" in text
    assert "order 1, multi-step loss: " in sections[-1][1]
    assert "MiB working" in sections[-1][1]
