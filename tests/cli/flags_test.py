"""Help and ready configurations, which both commands find from any folder."""

import os
import pathlib
import subprocess
import sys

import pytest

from mamlpp_jax.cli.config_files import find_config, ready_configs
from mamlpp_jax.cli.flags import fields_text
from mamlpp_jax.config.fields import FIELDS
from mamlpp_jax.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
READY = [
    "cifar_fs",
    "cub",
    "fc100",
    "image_folder",
    "mini_imagenet",
    "omniglot",
    "own_images",
    "quickstart",
    "tiered_imagenet",
]


def command(folder, module, *arguments):
    """Runs a command in a folder, with the checkout on the path."""
    return subprocess.run(
        [sys.executable, "-P", "-m", module, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_checkout_offers_its_configurations():
    assert set(READY) <= set(ready_configs())
    assert all(path == CONFIGS / f"{name}.py" for name, path in ready_configs().items())


@pytest.mark.parametrize(
    "spelling", ["configs/omniglot.py", "./configs/omniglot.py", "omniglot.py", "omniglot"]
)
def test_a_ready_configuration_is_found_from_any_folder(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    assert find_config(spelling) == CONFIGS / "omniglot.py"


@pytest.mark.parametrize("name", ["configs/omniglot.py", "omniglot.py"])
def test_a_local_file_wins(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    assert find_config(name).absolute() == tmp_path / name
    assert find_config(str(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize(
    "path", ["", ".", "configs", "omniglott", "other/omniglot.py", "/configs/omniglot.py", "a\0b"]
)
def test_an_unknown_configuration_is_refused_with_the_ready_ones(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    with pytest.raises(ConfigError) as refused:
        find_config(path)
    assert repr(path) in str(refused.value)
    assert all(f"configs/{name}.py" in str(refused.value) for name in READY)


@pytest.mark.parametrize(
    ("module", "arguments", "text"),
    [
        (
            "mamlpp_jax.main",
            ["--config=configs/quickstart.py:method=maml", "--config.task.way=1"],
            "config.task.way is 1",
        ),
        ("mamlpp_jax.main", ["--config", "omniglot:way=1"], "config.task.way is 1"),
        (
            "mamlpp_jax.main",
            ["--mode=evaluate", "--workdir=run", "--data_config=nowhere.py:way=5"],
            "configs/omniglot.py, configs/own_images.py",
        ),
        ("mamlpp_jax.data", ["--config=image_folder.py"], "data.manual_dir is empty"),
        ("mamlpp_jax.data", ["--config=nowhere"], "configs/omniglot.py, configs/own_images.py"),
    ],
)
def test_commands_find_ready_configurations_from_an_empty_folder(tmp_path, module, arguments, text):
    done = command(tmp_path, module, *arguments)
    assert done.returncode == 2
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "flag", "names"),
    [
        ("mamlpp_jax.main", "--help", ["--config", "--workdir", "--mode", "--data_config"]),
        ("mamlpp_jax.data", "-h", ["--config", "--contact_sheet"]),
    ],
)
def test_help_shows_the_flags_and_succeeds(tmp_path, module, flag, names):
    done = command(tmp_path, module, "--config=nowhere", flag)
    assert done.returncode == 0, done.stderr
    assert all(f"\n  {name}: " in done.stdout for name in names if name != "--mode")
    assert all(name in done.stdout for name in [*names, *READY])
    assert f"python -m {module}" in done.stdout


def test_the_fields_are_listed_with_default_meaning_and_allowed_values():
    text = fields_text()
    for name, field in FIELDS.items():
        assert f"{name}={field.default}\n    {field.text}" in text
        assert len(field.text) > 8
    assert "task.shot=1\n    support images per class; must be from 1 to" in text
    assert (
        "data.rotations=True\n    every 90-degree rotation of a class is a class; true or false"
        in text
    )


def test_both_commands_list_them(tmp_path):
    for module in ("mamlpp_jax.main", "mamlpp_jax.data"):
        done = command(tmp_path, module, "--fields")
        assert (done.returncode, done.stdout) == (0, f"{fields_text()}\n")
