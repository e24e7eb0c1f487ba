"""Which splits have their classes rotated."""

import numpy as np
import pytest

from mamlpp_jax.cli.data import describe
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training.experiment import build_experiment
from tests.helpers.small_runs import patterns, small_config

RELEASED = {"data.rotations": True, "data.rotate_evaluation": False}


@pytest.mark.parametrize(
    ("rotations", "in_evaluation", "factors"),
    [(False, True, (1, 1, 1)), (True, True, (4, 4, 4)), (True, False, (4, 1, 1))],
)
def test_classes_of_each_split(rotations, in_evaluation, factors):
    fields = {"data.rotations": rotations, "data.rotate_evaluation": in_evaluation}
    experiment = build_experiment(small_config(**fields), patterns())
    counts = tuple(experiment.tasks[split].num_classes for split in ("train", "val", "test"))
    assert counts == tuple(np.multiply(factors, (8, 4, 4)))


def test_evaluation_episodes_are_never_rotated_where_training_alone_is():
    data = patterns()
    experiment = build_experiment(small_config(**RELEASED, **{"task.way": 4}), data)
    upright = {image.tobytes() for image in data.images}
    for split, rotated in (("train", True), ("val", False), ("test", False)):
        images = experiment.tasks[split].episodes(20).support.inputs
        pixels = np.rint(np.asarray(images) * 255).astype(np.uint8).reshape(-1, *images.shape[-3:])
        found = [image.tobytes() in upright for image in pixels]
        assert all(found) != rotated
        names = [
            name for task in range(20) for name in experiment.tasks[split].task_class_names(task)
        ]
        assert any("rotated" in name for name in names) == rotated


def test_the_description_counts_rotations_per_split():
    lines = describe(small_config(**RELEASED), patterns()).splitlines()
    assert lines[1].endswith("with rotations 32 classes")
    assert not any("rotations" in line for line in lines[2:])


def test_more_ways_than_unrotated_classes_are_refused():
    with pytest.raises(ConfigError, match=r"way is 5, but the val split .* has 4 classes"):
        build_experiment(small_config(**RELEASED, **{"task.way": 5}), patterns())
