"""The parts of a run: classes, devices, chunks and task streams. Refusals are in `cli/commands_config_test`."""

import jax
import numpy as np
import pytest

from mamlpp_jax.training.experiment import build_experiment
from tests.helpers.small_runs import patterns, small_config, small_experiment


def support_images(split, **fields):
    return small_experiment(**fields).tasks[split].episodes(2).support.inputs


def test_every_split_has_classes_of_its_own():
    names = small_experiment().class_names
    assert {split: len(members) for split, members in names.items()} == {
        "train": 8,
        "val": 4,
        "test": 4,
    }
    assert {name for members in names.values() for name in members} == set(patterns().class_names)


def test_only_the_splits_asked_for_are_built():
    config = small_config(**{"task.way": 4})
    assert build_experiment(config, patterns(), splits=("test",)).tasks.keys() == {"test"}


@pytest.mark.parametrize(
    ("split", "own", "other"), [("train", "seed", "data.seed"), ("test", "data.seed", "seed")]
)
def test_training_tasks_follow_the_seed_and_the_others_that_of_the_data(split, own, other):
    usual = support_images(split)
    changed = support_images(split, **{own: 1})
    assert not np.array_equal(usual, changed)
    if split == "test":
        np.testing.assert_array_equal(usual, support_images(split, **{other: 1}))


def test_data_beyond_the_limit_stay_on_the_host_and_give_the_same_tasks():
    inside, beyond = small_experiment(), small_experiment(**{"data.device_limit_mib": 0})
    for split, stream in inside.tasks.items():
        assert stream.device_images is not None
        assert beyond.tasks[split].device_images is None
        jax.tree.map(
            np.testing.assert_array_equal, stream.episodes(3), beyond.tasks[split].episodes(3)
        )


@pytest.mark.parametrize(("devices", "chunk", "expected"), [(1, 0, 1), (1, 2, 2), (2, 0, 1)])
def test_devices_and_chunks(devices, chunk, expected):
    fields = {"compute.devices": devices, "compute.tasks_per_chunk": chunk}
    experiment = small_experiment(**fields)
    assert (experiment.mesh.size, experiment.tasks_per_chunk) == (devices, expected)


def test_the_first_state_lies_on_every_device():
    experiment = small_experiment(**{"compute.devices": 2})
    state, shapes = experiment.init_run_state(), experiment.state_shapes()
    assert len(state.step.sharding.device_set) == 2
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == jax.tree.map(
        lambda leaf: leaf.sharding, shapes
    )
