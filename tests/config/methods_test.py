"""Methods set the fields of their components, and a label never says less than what is trained."""

import pathlib
import re
import runpy

import pytest

from mamlpp_jax import config as config_lib
from mamlpp_jax.config import methods
from mamlpp_jax.config.methods import Component
from mamlpp_jax.errors import ConfigError
from tests.helpers.refusals import refused
from tests.helpers.small_runs import small_config

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
        "tasknorm": config.norm.train_statistics == "tasknorm",
    }
    return {name for name, value in on.items() if value}


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


@pytest.mark.parametrize("method", ["tasknorm", "maml+tasknorm", "maml++", "maml+lslr+tasknorm"])
def test_tasknorm_sets_the_statistics_of_training_and_evaluation(method):
    config = config_lib.default_config()
    config.norm.train_statistics, config.norm.eval_statistics = "support", "batch,support"
    config_lib.apply_method(config, method)
    config_lib.validate(config)
    used = (config.norm.train_statistics, config.norm.eval_statistics)
    with_it = method.endswith("tasknorm")
    assert used == (("tasknorm", "tasknorm") if with_it else ("support", "batch,support"))
    config.norm.eval_statistics = "tasknorm,support,batch"
    if with_it:
        config_lib.validate(config)
        config_lib.apply_method(config, "maml")
        assert config.norm.train_statistics == "batch"
    with pytest.raises(ConfigError, match=r"eval_statistics is .*train_statistics=tasknorm"):
        config_lib.validate(config)


def test_a_method_keeps_the_epochs_that_the_configuration_chose():
    config = config_lib.default_config()
    config.train.multi_step_epochs, config.train.first_order_epochs = 7, 0
    config.norm.per_step_affine, config.inner.optimizer = False, "sgd"
    config_lib.apply_method(config, "maml++")
    assert (config.train.multi_step_epochs, config.train.first_order_epochs) == (7, 0)
    assert switches(config) == {"msl", "bnrs", "bnwb", "lslr", "ca"}


@pytest.mark.parametrize("method", ["mamal", "maml+", "maml+lsrl", "maml+++", "", "msl", "boil+"])
def test_unknown_method_lists_the_known(tmp_path, method):
    with refused(
        tmp_path,
        f"method is '{method}'".replace("+", r"\+"),
        "msl, da, bnrs, bnwb, lslr, ca",
    ):
        config_lib.apply_method(small_config(), method)


@pytest.mark.parametrize(
    ("method", "component", "field", "value"),
    [
        ("maml", "lslr", "inner.optimizer", "lslr"),
        ("maml+msl", "bnwb", "norm.per_step_affine", True),
        ("maml+msl+ca", "da", "train.first_order_epochs", 1),
    ],
)
def test_a_component_that_the_method_leaves_out_is_refused(method, component, field, value):
    config = small_config(method, **{field: value})
    with pytest.raises(
        ConfigError, match=f"leaves out {component}, but config.{field} is {value!r}"
    ):
        config_lib.validate(config)


def test_a_label_that_is_not_what_is_trained_is_refused():
    """``--config.method=maml`` would train MAML++ and file it under MAML."""
    config = small_config()
    config.method = "maml"
    with pytest.raises(ConfigError, match=r"leaves out msl, but config.train.multi_step_epochs"):
        config_lib.validate(config)


def test_a_method_may_be_cut_short():
    config_lib.validate(small_config(**{"train.first_order_epochs": 0, "inner.optimizer": "sgd"}))


def test_a_new_method_and_a_second_component_of_a_field_are_rows(monkeypatch):
    """Here one on the field of derivative-order annealing."""
    always = Component("train.first_order_epochs", off=0, on=1000)
    monkeypatch.setitem(methods.COMPONENTS, "fo", always)
    monkeypatch.setitem(methods.METHODS, "fo", frozenset({"fo"}))
    for method, epochs in [("fo", 1000), ("fo+ca", 1000), ("maml+da", 1), ("maml", 0)]:
        config = small_config(method)
        config_lib.validate(config)
        assert config.train.first_order_epochs == epochs
        assert config.train.cosine_annealing == method.endswith("+ca")
    config.train.first_order_epochs = 1000
    with pytest.raises(
        ConfigError, match=r"leaves out da and fo, but .*first_order_epochs is 1000"
    ):
        config_lib.validate(config)


OTHERS = {
    "fomaml": {"train.first_order_epochs": 10**6},
    "anil": {"inner.adapts": "head"},
    "boil": {"inner.adapts": "body"},
    "metasgd": {"inner.optimizer": "metasgd"},
    "alfa": {"inner.optimizer": "alfa"},
    "sharedhead": {"model.shared_head": True},
    "reptile": {"train.outer_gradient": "reptile", "train.first_order_epochs": 10**6},
}
MAML = {
    "train.first_order_epochs": 0,
    "train.multi_step_epochs": 0,
    "inner.optimizer": "sgd",
    "inner.adapts": "all",
    "model.shared_head": False,
    "train.outer_gradient": "maml",
}


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_change_their_field_of_maml(method):
    for name in (method, f"maml+{method}", f"{method}+maml"):
        config = small_config(name)
        config_lib.validate(config)
        assert config.method == name
        fields = dict(config_lib.flatten(config))
        assert {key: fields[key] for key in MAML | OTHERS[method]} == MAML | OTHERS[method]


@pytest.mark.parametrize(
    "method",
    ["mamlpp+boil", "maml+anil", "metasgd+msl", "fomaml+lslr+anil", "reptile+ca", "alfa+boil"],
)
def test_methods_combine(method):
    config = small_config(method)
    config_lib.validate(config)
    expected = {"msl", "da", "bnrs", "bnwb", "lslr", "ca"} if "mamlpp" in method else set()
    expected |= {part for part in method.split("+") if part in methods.METHODS["maml++"]}
    assert switches(config) - {"da"} == expected - {"da"}


def test_a_further_field_of_a_method_goes_with_it():
    config = small_config("cavia")
    assert config.model.name == "film_conv4"
    methods.apply_method(config, "maml")
    assert config.model.name == "conv4"
    chosen = small_config("maml", **{"norm.eval_statistics": "running"})
    methods.apply_method(chosen, "anil")
    assert chosen.norm.eval_statistics == "running"  # no component's


def test_mamlpp_is_another_spelling():
    assert small_config("mamlpp") == small_config("maml++")
    assert switches(small_config("mamlpp+ca")) == TABLE_1["maml++"]


@pytest.mark.parametrize(
    ("method", "pair", "why"),
    [
        ("anil+boil", "anil and boil", "both set config.inner.adapts"),
        ("metasgd+lslr", "lslr and metasgd", "both set config.inner.optimizer"),
        ("alfa+metasgd", "metasgd and alfa", "both set config.inner.optimizer"),
        ("fomaml+da", "da and fomaml", "both set config.train.first_order_epochs"),
        ("mamlpp+metasgd", "lslr and metasgd", "inner.optimizer.*mamlpp is maml.msl.da.bnrs"),
        ("reptile+msl", "reptile and msl", "no query loss"),
        ("maml+lslr+reptile", "reptile and lslr", "no query loss to learn inner rates"),
        ("mamlpp+reptile", "reptile and msl", "no query loss.*mamlpp is maml.msl"),
        ("reptile+boil", "reptile and boil", "only what its inner loop changes"),
        ("sharedhead+boil", "boil and sharedhead", "never changes the head"),
    ],
)
def test_components_that_exclude_each_other_are_refused_by_name(method, pair, why):
    with pytest.raises(ConfigError, match=f"{pair} exclude each other: .*{why}"):
        small_config(method)


def test_every_component_says_what_it_does_and_whose_it_is():
    for name, component in methods.COMPONENTS.items():
        assert component.text, name
        assert re.search(r"\b20\d\d\b", component.cite), name


def test_what_a_component_excludes_stands_in_its_row(monkeypatch):
    """Also for a component that is not of the package."""
    excludes = {"msl": "two multi-step losses are one too many"}
    row = Component("train.label_smoothing", off=0.0, on=0.1, excludes=excludes)
    monkeypatch.setitem(methods.COMPONENTS, "smooth", row)
    assert small_config("maml+smooth").train.label_smoothing == 0.1
    for method in ("maml+smooth+msl", "maml+msl+smooth"):
        with pytest.raises(ConfigError, match="smooth and msl exclude each other: two multi-step"):
            small_config(method)
