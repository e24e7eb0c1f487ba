"""Configuration files as people write them: what is read, and what is said of one that cannot be used."""

import json

import pytest

from mamlpp_jax import config as config_lib
from mamlpp_jax.cli.config_files import load_config
from tests.helpers.refusals import refused
from tests.helpers.small_runs import small_config


def get_config(body, argument=""):
    """The text of a configuration file."""
    return f"""
from mamlpp_jax.config import default_config
def get_config({argument}): config = default_config(); {body}
"""


@pytest.mark.parametrize(
    ("text", "argument", "parts"),
    [
        ("def get_config():\n    return 1 / 0\n", "", ["raises ZeroDivisionError in line 2", "def"]),
        ("x = 1 / 0\n", "", ["raises ZeroDivisionError in line 1"]),
        ("import no_such_module\n", "", ["ModuleNotFoundError in line 1", "'no_such_module'"]),
        ("raise SystemExit(3)\n", "", ["raises SystemExit in line 1"]),
        ("open('/no/such/file')\n", "", ["raises FileNotFoundError in line 1"]),
        ("def get_config():\n    return get_config()\n", "", ["raises RecursionError in line 2"]),
        ("def get_config():\n    pass\n", "", ["returns NoneType", "get_config.. .*returns"]),
        ("def get_config():\n    return {'way': 5}\n", "", ["returns dict"]),
        ("x = 1\n", "", ["has no function get_config"]),
        ("get_config = 3\n", "", ["has no function get_config"]),
        (get_config("return config"), ":way=5", ["takes no argument, but 'way=5' is given"]),
        (get_config("return config", "argument"), "", ["needs an argument, but none is given"]),
        ("def get_config(:\n", "", ["is not a Python file", "line 1"]),
        ("a\0b", "", ["is not a Python file", "null bytes"]),
        (get_config("return 1, config"), "", ["returns tuple"]),
        (get_config("return config.trian"), "", ["raises AttributeError in line 3", "trian"]),
        (get_config("config.x = 3; return config"), "", [r"config\.x is not a field"]),
        (get_config("del config.seed; return config"), "", [r"config\.seed is missing"]),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_with_what_it_must_be(tmp_path, text, argument, parts):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with refused(tmp_path, r"mine\.py", *parts):
        load_config(f"{file}{argument}")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with refused(tmp_path, "/proc/self/mem cannot be read"):
        load_config("/proc/self/mem")
    with refused(tmp_path, "xxx' cannot be looked for"):
        load_config("x" * 300)


def test_the_configuration_of_a_run_can_be_given(tmp_path):
    stored = small_config(seed=3)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(stored.to_dict()))
    assert config_lib.config_hash(load_config(str(file))) == config_lib.config_hash(stored)
    with refused(tmp_path, r"config\.json is no Python file, so it takes no argument"):
        load_config(f"{file}:way=3")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"experiment": 3}'])
def test_another_json_file_is_refused_by_name(tmp_path, text):
    file = tmp_path / "results.json"
    file.write_text(text)
    with refused(tmp_path, r"results\.json"):
        load_config(str(file))


def test_a_file_may_define_dataclasses_and_leaves_nothing_beside_it(tmp_path):
    file = tmp_path / "mine.py"
    head = "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"
    file.write_text(head + get_config("return config"))
    assert load_config(str(file)) == config_lib.default_config()
    assert list(tmp_path.iterdir()) == [file]
