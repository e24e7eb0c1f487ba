"""Parts that fields choose by name: each is there, takes its own fields alone, and needs no JAX before it is used."""

import subprocess
import sys

import pytest

from mamlpp_jax import config as config_lib
from mamlpp_jax.config.parts import BACKBONES, INNER_OPTIMIZERS, OUTER_DIRECTIONS, Backbone, Part
from tests.helpers.refusals import refused
from tests.helpers.small_runs import small_config

TABLES = {
    "model.name": BACKBONES,
    "inner.optimizer": INNER_OPTIMIZERS,
    "train.outer_gradient": OUTER_DIRECTIONS,
}


@pytest.mark.parametrize(("field", "name"), [(f, n) for f, table in TABLES.items() for n in table])
def test_every_part_can_be_loaded_and_chosen(field, name):
    part = TABLES[field][name]
    assert callable(part.load())
    config_lib.check_value(field, name)
    assert part.options.keys() <= dict(config_lib.flatten(small_config())).keys()


def test_every_backbone_says_what_it_is_and_whose_it_is():
    assert all(part.text and part.cite for part in BACKBONES.values())


def test_configurations_need_no_jax():
    program = """
import sys
from mamlpp_jax import config
config.validate(config.default_config())
print("jax" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    ("method", "fields", "words"),
    [
        (
            "fomaml",
            {"model.name": "resnet12", "model.max_pool": False},
            ["max_pool is False, which 'resnet12', the choice of config.model.name,", "conv4"],
        ),
        (
            "anil",
            {"inner.per_step": True},
            ["inner.per_step is True, which 'sgd', the choice of config.inner.optim", "metasgd"],
        ),
    ],
)
def test_a_field_that_only_another_part_takes_is_refused(tmp_path, method, fields, words):
    with refused(tmp_path, *words, "leave it (True|False)"):
        config_lib.validate(small_config(method, **fields))


def test_a_field_that_the_chosen_part_takes_may_be_set():
    config_lib.validate(small_config(**{"model.max_pool": False}))
    config_lib.validate(small_config("metasgd", **{"inner.per_step": True}))
    config_lib.validate(small_config("fomaml", **{"model.name": "resnet12"}))


def test_a_part_from_elsewhere_is_a_row_with_its_own_options(monkeypatch, tmp_path):
    monkeypatch.setitem(BACKBONES, "mine", Backbone(dict, {"model.max_pool": "pools"}))
    fields = {"model.name": "mine", "model.filters": 64, "model.max_pool": False}
    config = small_config(**fields)
    config_lib.validate(config)
    values = dict(config_lib.flatten(config))
    assert BACKBONES["mine"].make(values, ways=3) == {"ways": 3, "pools": False}
    for field, value in {"model.filters": 8, "model.dtype": "bfloat16"}.items():
        with refused(
            tmp_path,
            f"config.{field} is {value!r}, which 'mine'",
            "conv4 or film_conv4 or resnet12",
        ):
            config_lib.validate(small_config(**fields | {field: value}))
    with refused(
        tmp_path, "model.name is 'other'; choose one of conv4, film_conv4, resnet12, mine"
    ):
        config_lib.validate(small_config(**{"model.name": "other"}))


def test_an_implementation_may_be_named_by_its_place():
    part = Part("math:copysign", {"train.adam_b1": "x", "seed": "y"})
    with pytest.raises(TypeError):
        part.make({"train.adam_b1": 0.9, "seed": 0})  # it takes no arguments by name
    assert part.load()(2.0, -1.0) == -2.0


@pytest.mark.parametrize(
    ("fields", "smallest"),
    [
        ({}, 16),
        ({"model.max_pool": False}, 1),
        ({"model.name": "resnet12"}, 16),
    ],
)
def test_an_image_that_is_too_small_for_the_backbone_is_refused(tmp_path, fields, smallest):
    config_lib.validate(small_config("fomaml", **fields, **{"data.image_size": smallest}))
    with refused(tmp_path, rf"image_size is {smallest - 1}[;,] .*(at least|from) {smallest} "):
        config_lib.validate(small_config("fomaml", **fields, **{"data.image_size": smallest - 1}))
