"""What is refused, with the words that say why."""

import math

import pytest

from mamlpp_jax import config as config_lib
from mamlpp_jax.errors import ConfigError
from tests.helpers.refusals import refused
from tests.helpers.small_runs import small_config


def changed(field, value):
    return small_config(**{field: value})


def test_misspelt_field_gets_a_suggestion(tmp_path):
    config = small_config()
    with config.unlocked():
        config.train.epoks = 3
    with refused(
        tmp_path, r"config\.train\.epoks is not a field \(did you mean config\.train\.epochs\?\)"
    ):
        config_lib.validate(config)


def test_missing_field_names_its_default():
    config = small_config()
    with config.unlocked():
        del config.train["inner_steps"]
    with pytest.raises(ConfigError, match=r"config\.train\.inner_steps is missing; .* is 5\.$"):
        config_lib.validate(config)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("train.epochs", "many", "int"),
        ("train.epochs", 2.0, "int"),
        ("train.epochs", True, "int"),
        ("train.epochs", None, "int"),
        ("train.learning_rate", "fast", "float"),
        ("log.tensorboard", 1, "bool"),
        ("norm.eval_statistics", 3, "str"),
    ],
)
def test_wrong_type_names_field_value_and_type(field, value, kind):
    config = small_config()
    section, name = field.split(".")
    with config.ignore_type():
        config[section][name] = value
    with pytest.raises(ConfigError, match=rf"config\.{field} is {value!r}; .* type {kind}\."):
        config_lib.validate(config)


def test_a_stored_whole_number_will_do_for_a_float():
    stored = small_config().to_dict()
    stored["train"]["learning_rate"] = 1
    config_lib.from_dict(stored)
    for value in (True, 2**31, 10**400):
        stored["train"]["learning_rate"] = value
        with pytest.raises(ConfigError, match=rf"learning_rate is {value}; .* of type float"):
            config_lib.from_dict(stored)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("task.way", [-1, 0, 1, 2**31]),
        ("task.shot", [-1, 0]),
        ("task.query", [-3, 0]),
        ("train.epochs", [-1, 0]),
        ("train.steps_per_epoch", [0]),
        ("train.tasks_per_step", [-2, 0]),
        ("train.inner_steps", [0, 10_001]),
        ("train.first_order_epochs", [-1]),
        ("train.multi_step_epochs", [-1]),
        ("train.learning_rate", [0.0, -1.0, math.nan, math.inf]),
        ("train.final_learning_rate", [0.0]),
        ("train.adam_b2", [1.0, -0.1, math.nan]),
        ("train.clip_norm", [-1.0, math.nan, math.inf]),
        ("inner.learning_rate", [0.0, math.nan]),
        ("norm.hand_over", [1.1, -0.1, math.nan]),
        ("train.label_smoothing", [1.0, -0.1, math.nan]),
        ("train.average_decay", [1.0, -0.1, math.nan]),
        ("model.filters", [0]),
        ("data.image_size", [0, 15, 1025]),
        ("data.val_classes", [-1]),
        ("data.seed", [-1, 2**32]),
        ("data.device_limit_mib", [-1]),
        ("seed", [-1, 2**70]),
        ("evaluation.tasks", [0, 1]),
        ("evaluation.ensemble", [0]),
        ("checkpoint.every_minutes", [0.0]),
        ("compute.devices", [-1]),
        ("compute.tasks_per_chunk", [-1]),
        ("compute.steps_per_dispatch", [-1]),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, field, values):
    for value in values:
        with refused(tmp_path, rf"config\.{field} is {value}[; ]".replace("+", r"\+")):
            config_lib.validate(changed(field, value))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("norm.train_statistics", "bach", "batch, running, support"),
        ("norm.eval_statistics", "batch,bach", "batch, running, support"),
        ("norm.eval_statistics", "", "batch, running, support"),
        ("norm.eval_statistics", "batch, batch", "none of them twice"),
        ("inner.optimizer", "adam", "sgd"),
        ("model.conv", "fft", "patches"),
        ("model.conv", "shifted", "auto, xla, patches, direct, grouped"),
        ("model.dtype", "float16", "float32, bfloat16"),
        ("model.name", "resnet", "conv4"),
        ("experiment", "a/b", "letters, digits"),
        ("experiment", ".a", "not begin with a dot"),
        ("data.normalize", "cifar", "none, imagenet"),
        ("data.channels", 2, "1 .grey., 3 .colour."),
    ],
)
def test_unknown_choices_list_the_known(field, value, allowed):
    with pytest.raises(ConfigError, match=rf"config\.{field}.*{allowed}"):
        config_lib.validate(changed(field, value))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("norm.train_statistics", "renorm"),
        ("norm.eval_statistics", "batch,running"),
        ("norm.eval_statistics", "renorm"),
    ],
)
def test_averaged_weights_have_no_running_statistics(tmp_path, field, value):
    averaged = {"train.average_decay": 0.999}
    with refused(
        tmp_path, r"moving average of weights .*, and running statistics are those of the last"
    ):
        config_lib.validate(small_config(**averaged, **{field: value}))
    config_lib.validate(small_config(**averaged))
    config_lib.validate(small_config(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value"), [("data.split_file", "classes.csv"), ("data.val_classes", 3)]
)
def test_fractions_are_not_ignored(tmp_path, field, value):
    none = {"data.train_classes": 0, "data.val_classes": 0, "data.test_classes": 0}
    fractions = {**none, "data.split_fractions": "0.5,0.25,0.25"}
    with refused(tmp_path, rf"split_fractions is '0\.5,0\.25,0\.25', but {field} says"):
        config_lib.validate(small_config(**{**fractions, field: value}))
    config_lib.validate(small_config(**fractions))


def test_counts_must_divide(tmp_path):
    with refused(tmp_path, r"tasks_per_step is 2, .*compute\.devices=4", "a divisor of 2"):
        config_lib.validate(changed("compute.devices", 4))
    with refused(tmp_path, r"tasks_per_chunk is 2; it must divide the 1 tasks per device"):
        config_lib.validate(small_config(**{"compute.devices": 2, "compute.tasks_per_chunk": 2}))
    with refused(tmp_path, r"tasks_per_chunk is 3;"):
        config_lib.validate(changed("compute.tasks_per_chunk", 3))
    with refused(tmp_path, r"steps_per_dispatch is 3; it must divide .*steps_per_epoch=2"):
        config_lib.validate(changed("compute.steps_per_dispatch", 3))


@pytest.mark.parametrize("removed", ["shifted", "pallas"])
def test_a_removed_convolution_is_read_as_the_default(removed):
    stored = small_config(**{"model.filters": 7}).to_dict()
    stored["model"]["conv"] = removed
    config = config_lib.from_dict(stored)
    assert (config.model.conv, config.model.filters) == ("auto", 7)
    assert stored["model"]["conv"] == removed


@pytest.mark.parametrize("field", ["tfds_dir", "manual_dir", "cache_dir"])
def test_a_home_folder_that_is_not_there_is_refused_by_name(field):
    config = small_config()
    config.data[field] = "~nobody-of-this-name/data"
    with pytest.raises(ConfigError, match=rf"config\.data\.{field} is .*home folder"):
        config_lib.validate(config)


def test_annealing_upwards_is_refused():
    with pytest.raises(ConfigError, match=r"final_learning_rate is 1\.0; .* at most .*=0\.001"):
        config_lib.validate(changed("train.final_learning_rate", 1.0))
    fields = {"train.final_learning_rate": 1.0}
    config_lib.validate(small_config("maml", **fields))


def test_fractions_are_read():
    assert config_lib.parse_fractions("0.64, 0.16,0.2") == (0.64, 0.16, 0.2)
    assert config_lib.parse_fractions("") == (0.64, 0.16, 0.2)


@pytest.mark.parametrize(
    "text",
    [" ", "0.5,0.5", "0.5,0.5,0.1", "1,0,0", "-1,1,1", "a,b,c", "nan,0.1,0.1", "0.5;0.2;0.3"],
)
def test_fractions_that_are_none_are_refused(text):
    message = r"config\.data\.split_fractions is .*0\.64,0\.16,0\.2"
    with pytest.raises(ConfigError, match=message):
        config_lib.parse_fractions(text)
    with pytest.raises(ConfigError, match=message):
        config_lib.validate(changed("data.split_fractions", text))
