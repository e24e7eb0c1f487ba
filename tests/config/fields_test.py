"""The table of fields: its defaults, and choices that are those of the code they are passed to."""

import pytest

from mamlpp_jax import config as config_lib
from mamlpp_jax.config.fields import FIELDS
from mamlpp_jax.data.episodes import NORMALIZATIONS
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.ops import conv
from mamlpp_jax.statistics import STATISTICS, Statistics


def test_the_defaults_are_the_papers_protocol():
    config = config_lib.default_config()
    config_lib.validate(config)
    assert config_lib.total_steps(config) == 75_000
    assert (config.train.first_order_epochs, config.train.multi_step_epochs) == (50, 10)
    assert (config.evaluation.tasks, config.evaluation.ensemble) == (600, 3)
    assert config.model.name == "conv4"


def test_a_default_configuration_is_its_callers_own():
    config_lib.default_config().train.epochs = 1
    assert config_lib.default_config().train.epochs == 150


@pytest.mark.parametrize(
    ("field", "registry"),
    [
        ("data.normalize", NORMALIZATIONS),
        ("model.conv", conv.IMPL_NAMES),
        ("norm.eval_statistics", STATISTICS),
        ("norm.train_statistics", STATISTICS),
    ],
)
def test_choices_are_those_of_the_registry(field, registry):
    assert sorted(FIELDS[field].rule.choices) == sorted(registry)


def test_a_statistics_mode_added_to_the_registry_can_be_configured(monkeypatch):
    config = config_lib.default_config()
    config.norm.train_statistics = config.norm.eval_statistics = "mine"
    with pytest.raises(ConfigError, match=r"statistics is 'mine'; choose one .*batch, run"):
        config_lib.validate(config)
    monkeypatch.setitem(STATISTICS, "mine", Statistics("mine", "a mode of one's own"))
    config_lib.validate(config)
    config.norm.train_statistics = "mina"
    with pytest.raises(ConfigError, match="renorm, mine"):
        config_lib.validate(config)
