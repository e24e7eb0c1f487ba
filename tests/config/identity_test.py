"""Which fields tell runs apart, and values that follow from fields."""

import pytest

from mamlpp_jax import config as config_lib
from tests.helpers.small_runs import small_config


@pytest.mark.parametrize(
    ("field", "value"),
    {
        "compute.devices": 2,
        "compute.tasks_per_chunk": 1,
        "compute.remat": True,
        "compute.steps_per_dispatch": 1,
        "model.conv": "xla",
        "log.every_seconds": 1.0,
        "log.tensorboard": True,
        "checkpoint.every_minutes": 1.0,
        "data.tfds_dir": "/a",
        "data.manual_dir": "/b",
        "data.cache_dir": "/c",
        "data.device_limit_mib": 1,
    }.items(),
)
def test_differences_and_hash_leave_out_what_does_not_change_the_run(field, value):
    config, other = small_config(), small_config(**{field: value})
    assert config_lib.differences(other, config.to_dict()) == []
    assert config_lib.config_hash(other) == config_lib.config_hash(config)


@pytest.mark.parametrize(
    ("field", "value"),
    {
        "seed": 1,
        "data.seed": 1,
        "data.name": "x",
        "data.split_file": "x",
        "model.filters": 7,
        "evaluation.tasks": 9,
    }.items(),
)
def test_differences_and_hash_see_what_changes_the_run(field, value):
    config, other = small_config(), small_config(**{field: value})
    (difference,) = config_lib.differences(other, config.to_dict())
    assert difference.startswith(f"config.{field}: {value!r} here, ")
    assert config_lib.config_hash(other) != config_lib.config_hash(config)


def test_the_hand_over_tells_runs_apart_where_statistics_are_annealed_alone():
    """Its default was 0.5 before it was 0."""
    for statistics, differs in (("batch", False), ("support", False), ("renorm", True)):
        fields = {"norm.train_statistics": statistics}
        now, before = (small_config(**fields, **{"norm.hand_over": h}) for h in (0.0, 0.5))
        assert bool(config_lib.differences(now, before.to_dict())) == differs
        assert (config_lib.config_hash(now) != config_lib.config_hash(before)) == differs


def test_chosen_fractions_are_the_usual_ones():
    """Runs made before fractions could be left to be chosen go on; `data.json` has their classes."""
    chosen = small_config(**{"data.split_fractions": ""})
    usual = small_config(**{"data.split_fractions": "0.64,0.16,0.2"})
    other = small_config(**{"data.split_fractions": "0.5,0.3,0.2"})
    assert config_lib.differences(chosen, usual.to_dict()) == []
    assert config_lib.config_hash(chosen) == config_lib.config_hash(usual)
    assert config_lib.differences(chosen, other.to_dict()) != []


def test_ones_own_images_are_told_apart_by_the_name_of_their_folder():
    configs = {}
    for folder in ("/a/birds", "/b/birds/", "/a/fish"):
        fields = {"data.name": "image_folder", "data.manual_dir": folder}
        configs[folder] = small_config(**fields)
    birds, moved, fish = configs.values()
    assert config_lib.differences(moved, birds.to_dict()) == []
    assert config_lib.config_hash(moved) == config_lib.config_hash(birds)
    assert config_lib.differences(fish, birds.to_dict()) == [
        "config.data.manual_dir: 'fish' here, 'birds' there"
    ]
    assert config_lib.config_hash(fish) != config_lib.config_hash(birds)
    assert config_lib.data_label(fish) == "image_folder:fish"
    assert config_lib.data_label(small_config()) == "glyphs"


def test_a_copy_with_default_compute_leaves_the_original_as_it_is():
    config = small_config(**{"compute.tasks_per_chunk": 2, "model.conv": "grouped"})
    changed = config_lib.with_default_compute(config)
    assert changed.compute == config_lib.default_config().compute
    assert (changed.model.conv, changed.model.filters) == ("auto", config.model.filters)
    assert changed.train == config.train
    assert (config.compute.tasks_per_chunk, config.model.conv) == (2, "grouped")


def test_values_that_follow_from_fields():
    config = small_config(**{"norm.eval_statistics": "support, batch"})
    assert config_lib.eval_statistics(config) == ("support", "batch")
    assert config_lib.total_steps(config) == 6
