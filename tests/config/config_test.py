"""Fields, methods and what is refused, with the words that say why."""

import math
import pathlib
import runpy

import jax
import pytest

from mamlpp_jax import config as config_lib
from mamlpp_jax.cli import commands
from mamlpp_jax.errors import ConfigError
from tests.helpers.refusals import compilations, refused
from tests.helpers.small_runs import patterns, small_config

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
TABLE_1 = {
    "maml": set(),
    "maml+msl": {"msl"},
    "maml+da": {"da"},
    "maml+bnrs+bnwb": {"bnrs", "bnwb"},
    "maml+lslr": {"lslr"},
    "maml+ca": {"ca"},
    "maml++": {"msl", "da", "bnrs", "bnwb", "lslr", "ca"},
}


def switches(config):
    """The components that are on, read from the fields."""
    on = {
        "msl": config.train.multi_step_epochs > 0,
        "da": config.train.first_order_epochs > 0,
        "bnrs": config.norm.per_step_statistics,
        "bnwb": config.norm.per_step_affine,
        "lslr": config.inner.optimizer == "lslr",
        "ca": config.train.cosine_annealing,
    }
    return {name for name, value in on.items() if value}


@pytest.fixture
def use_patterns(monkeypatch):
    monkeypatch.setattr(commands, "load_dataset", lambda data: patterns())


def changed(field, value):
    return small_config(**{field: value})


@pytest.mark.parametrize("method", TABLE_1)
@pytest.mark.parametrize("name", ["omniglot", "mini_imagenet", "image_folder", "quickstart"])
def test_every_method_of_table_1_sets_its_switches_and_no_others(name, method):
    get_config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]
    config = get_config(f"method={method}")
    assert config.method == method
    assert switches(config) == TABLE_1[method]
    config_lib.validate(config)


def test_other_combinations_of_components_parse_in_any_order():
    config = config_lib.default_config()
    config_lib.apply_method(config, "maml+lslr+msl")
    assert switches(config) == {"msl", "lslr"}
    config_lib.validate(config)


def test_mini_imagenet_follows_the_papers_protocol():
    get_config = runpy.run_path(str(CONFIGS / "mini_imagenet.py"))["get_config"]
    for shot, tasks in ((1, 4), (5, 2)):
        for steps in range(1, 6):
            config = get_config(f"way=5,shot={shot},steps={steps}")
            config_lib.validate(config)
            assert config_lib.total_steps(config) == 75_000
            assert (config.train.inner_steps, config.train.tasks_per_step) == (steps, tasks)
            assert (config.task.query, config.model.filters) == (15, 48)
            assert config.inner.learning_rate == 0.01
            assert config.train.multi_step_epochs == 15


def test_the_defaults_are_the_papers_protocol():
    config = config_lib.default_config()
    config_lib.validate(config)
    assert config_lib.total_steps(config) == 75_000
    assert (config.train.first_order_epochs, config.train.multi_step_epochs) == (50, 10)
    assert (config.evaluation.tasks, config.evaluation.ensemble) == (600, 3)


@pytest.mark.parametrize("method", ["mamal", "maml+", "maml+lsrl", "maml+++", "", "msl"])
def test_unknown_method_lists_the_known(tmp_path, method):
    with refused(
        tmp_path, f"method is '{method}'".replace("+", r"\+"), "msl, da, bnrs, bnwb, lslr, ca"
    ):
        config_lib.apply_method(small_config(), method)


def test_a_label_that_is_not_what_is_trained_is_refused():
    """``--config.method=maml`` would train MAML++ and file it under MAML."""
    config = small_config()
    config.method = "maml"
    with pytest.raises(ConfigError, match=r"leaves out msl, but config.train.multi_step_epochs"):
        config_lib.validate(config)
    config = small_config("maml")
    config.inner.optimizer = "lslr"
    with pytest.raises(ConfigError, match=r"leaves out lslr, but config.inner.optimizer is 'lslr'"):
        config_lib.validate(config)
    shortened = changed("train.first_order_epochs", 0)
    config_lib.validate(shortened)


def test_misspelt_field_gets_a_suggestion(tmp_path):
    config = small_config()
    with config.unlocked():
        config.train.epoks = 3
    with refused(tmp_path, r"config\.train\.epoks is not a field \(did you mean train\.epochs\?\)"):
        config_lib.validate(config)


def test_missing_field_names_its_default():
    config = small_config()
    with config.unlocked():
        del config.train["inner_steps"]
    with pytest.raises(ConfigError, match=r"config\.train\.inner_steps is missing; .* is 5"):
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


def test_a_whole_number_will_do_for_a_float():
    config = small_config()
    with config.ignore_type():
        config.train.learning_rate = 1
    config_lib.validate(config)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("task.way", [-1, 0, 1]),
        ("task.shot", [-1, 0]),
        ("task.query", [-3, 0]),
        ("train.epochs", [-1, 0]),
        ("train.steps_per_epoch", [0]),
        ("train.tasks_per_step", [-2, 0]),
        ("train.inner_steps", [0]),
        ("train.first_order_epochs", [-1]),
        ("train.multi_step_epochs", [-1]),
        ("train.learning_rate", [0.0, -1.0, math.nan, math.inf]),
        ("train.final_learning_rate", [0.0]),
        ("train.adam_b2", [1.0, -0.1, math.nan]),
        ("inner.learning_rate", [0.0, math.nan]),
        ("model.filters", [0]),
        ("data.image_size", [0, 15]),
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
        ("norm.eval_statistics", "batch, batch", "repeats a mode"),
        ("inner.optimizer", "adam", "sgd"),
        ("model.conv", "fft", "patches"),
        ("data.normalize", "cifar", "none, imagenet"),
        ("data.channels", 2, "1 .grey., 3 .colour."),
    ],
)
def test_unknown_choices_list_the_known(field, value, allowed):
    with pytest.raises(ConfigError, match=rf"config\.{field}.*{allowed}"):
        config_lib.validate(changed(field, value))


def test_counts_must_divide(tmp_path):
    with refused(tmp_path, r"tasks_per_step is 2, .*compute\.devices=4", "a divisor of 2"):
        config_lib.validate(changed("compute.devices", 4))
    with refused(tmp_path, r"tasks_per_chunk is 2; it must divide the 1 tasks per device"):
        config_lib.validate(small_config(**{"compute.devices": 2, "compute.tasks_per_chunk": 2}))
    with refused(tmp_path, r"tasks_per_chunk is 3;"):
        config_lib.validate(changed("compute.tasks_per_chunk", 3))
    with refused(tmp_path, r"steps_per_dispatch is 3; it must divide .*steps_per_epoch=2"):
        config_lib.validate(changed("compute.steps_per_dispatch", 3))


@pytest.mark.usefixtures("use_patterns")
@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        # 2 tasks on one device divide into a chunk of 2; on the two devices of "automatic" not.
        (
            {"compute.devices": 0, "compute.tasks_per_chunk": 2},
            ["tasks_per_chunk is 2; it must divide the 1 tasks per device", "over 2 device"],
        ),
        (
            {"compute.devices": 8, "train.tasks_per_step": 8},
            ["compute.devices is 8, but JAX sees 4 cpu", "at most 4"],
        ),
        ({"task.way": 9}, ["task.way is 9, but the train split of glyphs has 8 classes"]),
        ({"task.way": 5}, ["task.way is 5, but the val split of glyphs has 4 classes"]),
        (
            {"task.shot": 4, "task.query": 3},
            [r"is 4 \+ 3 = 7, but the smallest class .* has 6 images", "at most 6"],
        ),
        ({"data.normalize": "imagenet"}, ["data.normalize is 'imagenet', .* has grey", "use none"]),
        ({"data.channels": 3}, ["data.channels is 3, but glyphs has pictures of 1; use 0"]),
        (
            {"data.train_classes": 0, "data.val_classes": 0, "data.test_classes": 0, "task.way": 4},
            ["the val split of glyphs has 3 classes"],
        ),
        ({"data.train_classes": 0}, ["data.train_classes is 0, but the other splits"]),
        ({"data.split_file": "/none.csv"}, ["data.split_file: /none.csv cannot be read"]),
        ({"data.train_classes": 9}, [r"data.train_classes=9 \+ .* = 17 classes, but .* has 16"]),
    ],
)
def test_what_data_or_devices_cannot_give_is_refused(tmp_path, fields, parts):
    config = small_config(**fields)
    config_lib.validate(config)
    with refused(tmp_path, *parts):
        commands.train(config, tmp_path / "run")
    with refused(tmp_path, *parts):
        commands.dry_run(config, tmp_path / "run")


@pytest.mark.usefixtures("use_patterns")
def test_rotated_classes_count(tmp_path):
    with refused(tmp_path, "task.way is 17, but the val split of glyphs has 16 classes"):
        commands.train(small_config(**{"task.way": 17, "data.rotations": True}), tmp_path / "run")


def test_unknown_data_set_lists_the_known(tmp_path):
    config = changed("data.name", "omniglott")
    config.data.cache_dir = str(tmp_path / "cache")
    with refused(
        tmp_path,
        "data.name is 'omniglott'",
        "glyphs, image_folder, mini_imagenet, omniglot, tfds:<name>",
    ):
        commands.train(config, tmp_path / "run")


def test_refusals_would_notice_compilation():
    before = compilations()
    jax.jit(lambda x: x * 3 + 1)(1.5)
    assert compilations() > before


def test_arguments_of_a_configuration_file():
    defaults = {"way": 5, "method": "maml++"}
    assert config_lib.parse_argument(None, defaults) == defaults
    assert config_lib.parse_argument("way=20, method=maml", defaults) == {
        "way": 20,
        "method": "maml",
    }
    with pytest.raises(ConfigError, match=r"no argument 'ways' \(did you mean way\?\).*way=5"):
        config_lib.parse_argument("ways=5", defaults)
    with pytest.raises(ConfigError, match="way='many' must be of type int"):
        config_lib.parse_argument("way=many", defaults)


def test_differences_and_hash_see_what_changes_the_run_and_nothing_else():
    config = small_config()
    for field, value in {
        "compute.devices": 2,
        "compute.tasks_per_chunk": 1,
        "compute.steps_per_dispatch": 1,
        "log.every_seconds": 1.0,
        "log.tensorboard": True,
        "checkpoint.every_minutes": 1.0,
        "data.tfds_dir": "/a",
        "data.manual_dir": "/b",
        "data.cache_dir": "/c",
        "data.device_limit_mib": 1,
    }.items():
        other = changed(field, value)
        assert config_lib.differences(other, config.to_dict()) == []
        assert config_lib.config_hash(other) == config_lib.config_hash(config)
    for field, value in {"seed": 1, "data.seed": 1, "data.name": "x", "model.conv": "xla"}.items():
        other = changed(field, value)
        (difference,) = config_lib.differences(other, config.to_dict())
        assert difference.startswith(f"{field}: {value!r} here, ")
        assert config_lib.config_hash(other) != config_lib.config_hash(config)


def test_ones_own_images_are_told_apart_by_the_name_of_their_folder():
    configs = {}
    for folder in ("/a/birds", "/b/birds/", "/a/fish"):
        fields = {"data.name": "image_folder", "data.manual_dir": folder}
        configs[folder] = small_config(**fields)
    birds, moved, fish = configs.values()
    assert config_lib.differences(moved, birds.to_dict()) == []
    assert config_lib.config_hash(moved) == config_lib.config_hash(birds)
    assert config_lib.differences(fish, birds.to_dict()) == [
        "data.manual_dir: 'fish' here, 'birds' there"
    ]
    assert config_lib.config_hash(fish) != config_lib.config_hash(birds)
    assert config_lib.data_label(fish) == "image_folder:fish"
    assert config_lib.data_label(small_config()) == "glyphs"


def test_a_field_the_stored_configuration_lacks_is_a_difference():
    stored = small_config().to_dict()
    del stored["norm"]["eval_statistics"]
    assert config_lib.differences(small_config(), stored) == [
        "norm.eval_statistics: 'batch' here, 'absent' there"
    ]


def test_a_stored_configuration_is_the_same_again():
    config = small_config()
    again = config_lib.from_dict(config.to_dict())
    assert config_lib.config_hash(again) == config_lib.config_hash(config)
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("field", ["tfds_dir", "manual_dir", "cache_dir"])
def test_a_home_folder_that_is_not_there_is_refused_by_name(field):
    config = small_config()
    config.data[field] = "~nobody-of-this-name/data"
    with pytest.raises(ConfigError, match=rf"config\.data\.{field} is .*home folder"):
        config_lib.validate(config)
