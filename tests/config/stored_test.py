"""Stored configurations of earlier versions: what is missing has its default, what was removed must be off."""

import json

import pytest

from mamlpp_jax import config as config_lib
from mamlpp_jax.config import stored as stored_lib
from mamlpp_jax.config.stored import REMOVED_FIELDS, RemovedField, check_field
from mamlpp_jax.errors import ConfigError
from tests.helpers.refusals import refused
from tests.helpers.small_runs import small_config


def with_field(stored, name, value):
    """The stored configuration with one more field."""
    *sections, key = name.split(".")
    section = stored
    for part in sections:
        section = section[part]
    section[key] = value
    return stored


def test_a_stored_configuration_is_the_same_again():
    config = small_config("maml")
    again = config_lib.from_dict(json.loads(json.dumps(config.to_dict())))
    assert config_lib.config_hash(again) == config_lib.config_hash(config)
    assert again.to_dict() == config.to_dict()


def test_values_by_full_name_will_do():
    config = small_config("maml")
    assert config_lib.complete(dict(config_lib.flatten(config))) == config


@pytest.mark.parametrize("name", ["model.name", "norm.hand_over", "compute.remat", "protocol"])
def test_a_field_that_is_missing_has_its_default(name):
    config = small_config()
    stored = dict(config_lib.flatten(config))
    del stored[name]
    assert config_lib.from_dict(stored) == config


@pytest.mark.parametrize("name", REMOVED_FIELDS)
def test_a_removed_field_is_dropped_where_it_was_off_and_else_refused_by_name(tmp_path, name):
    off, commit = REMOVED_FIELDS[name]
    stored = with_field(small_config().to_dict(), name, off)
    assert config_lib.from_dict(stored) == small_config()
    on = with_field(stored, name, 0.3)
    with refused(tmp_path, rf"config\.{name} is 0\.3, .*removed; {commit} is the last commit"):
        config_lib.from_dict(on)
    assert config_lib.complete(on, to_train=False) == small_config()


@pytest.mark.parametrize("name", REMOVED_FIELDS)
def test_a_removed_field_cannot_be_set(tmp_path, name):
    with refused(tmp_path, rf"config\.{name} was removed; \w{{7}} is the last commit"):
        config_lib.check_field(name)


def test_a_stored_field_that_nobody_knows_is_refused_by_name(tmp_path):
    unknown = with_field(small_config().to_dict(), "train.epoks", 3)
    with refused(tmp_path, r"config\.train\.epoks is not a field .*config\.train\.epochs"):
        config_lib.complete(unknown)
    with refused(tmp_path, "the configuration is empty"):
        config_lib.complete({})


def test_removing_a_field_keeps_the_hash_of_runs_that_did_without_it(monkeypatch):
    config = small_config()
    before = small_config()
    with before.unlocked():
        before.train.warmup = 0
    expected = config_lib.config_hash(before)
    assert config_lib.config_hash(config) != expected
    monkeypatch.setitem(stored_lib.REMOVED_FIELDS, "train.warmup", RemovedField(0, "abc1234"))
    assert config_lib.config_hash(config) == expected


def test_a_run_of_another_version_differs_where_its_fields_do():
    config = small_config()
    older = config.to_dict()
    del older["model"]["name"], older["compute"]["remat"]
    assert config_lib.differences(config, older) == []
    older["seed"] = 7
    assert config_lib.differences(config, older) == ["config.seed: 0 here, 7 there"]
    decaying = with_field(config.to_dict(), "inner.rate_decay", 1.0)
    (difference,) = config_lib.differences(config, decaying)
    assert difference.startswith("config.inner.rate_decay is 1.0, but")
    newer = with_field(config.to_dict(), "train.warmup", 3)
    (difference,) = config_lib.differences(config, newer)
    assert difference.startswith("config.train.warmup is not a field")


@pytest.mark.parametrize("value", [1, None])
def test_a_stored_configuration_is_still_checked(value):
    stored = small_config().to_dict()
    stored["task"]["way"] = value
    with pytest.raises(ConfigError, match=rf"config\.task\.way is {value}"):
        config_lib.from_dict(stored)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("train.steps", "train.steps_per_epoch"),
        ("train.lr", "train.learning_rate"),
        ("inner.lr", "inner.learning_rate"),
        ("train.meta_batch", "train.tasks_per_step"),
        ("shots", "task.shot"),
        ("data.folder", "data.manual_dir"),
        ("train.epoks", "train.epochs"),
    ],
)
def test_an_unknown_field_suggests_by_meaning(name, meant):
    with pytest.raises(
        ConfigError, match=rf"did you mean config\.{meant}\?\); --fields lists them"
    ):
        check_field(name)
