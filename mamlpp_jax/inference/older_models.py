"""Layouts of models before that of `saved_model`, which are read and no longer written.

version 1   `config.json`: "format", what `model.json` has now, and under "trained" some fields of the
            configuration; `model.safetensors`
archived    the best epoch of a run, by an earlier `experiments.paper.keep`: the run's `config.json`, `data.json`,
            `weights.safetensors`
"""

from __future__ import annotations

import pathlib

import safetensors

from mamlpp_jax.errors import ModelError
from mamlpp_jax.inference.model import FewShotModel, without_weights
from mamlpp_jax.inference.model_files import FORMAT, naming_damage, read_config, read_description
from mamlpp_jax.inference.weights import decode, read_bytes, with_weights
from mamlpp_jax.utils.files import exists, read_json, wrap_os_errors

ARCHIVED_WEIGHTS = "weights.safetensors"


def is_version_1(folder: pathlib.Path) -> bool:
    """Whether a folder holds a model of version 1; files of it may be damaged."""
    content = read_json(folder / "config.json") if exists(folder / "config.json") else None
    return isinstance(content, dict) and content.get("format") == FORMAT


def load_version_1(folder: pathlib.Path) -> FewShotModel:
    """Reads a model of version 1; fields that it does not have get their defaults.

    Raises:
        ModelError: a file is foreign, damaged or of another version; names it.
        WorkdirError: a file is missing or cannot be read.
    """
    path, weights_path = folder / "config.json", folder / "model.safetensors"
    content = read_json(path)
    if not is_version_1(folder):
        raise ModelError(f'{path} is not a saved model\'s: its "format" is not "{FORMAT}".')
    if (version := content.get("format_version")) != 1:
        raise ModelError(
            f"{path} has the format version {version!r}; without a model.json it must be 1."
        )
    with naming_damage(path):
        trained = {**content["trained"], "data.image_size": content["image"]["size"]}
    model = read_description(content, read_config(trained, path), path)
    arrays = decode(read_bytes(weights_path, content.get("sha256"), path), weights_path)
    return with_weights(model, arrays, weights_path)


def load_archived(folder: pathlib.Path) -> FewShotModel:
    """Reads the best epoch of an archived run.

    Raises:
        ModelError: a file is damaged or another run's; names it.
        WorkdirError: a file is missing or cannot be read.
    """
    config_path, data_path, weights_path = (
        folder / name for name in ("config.json", "data.json", ARCHIVED_WEIGHTS)
    )
    with wrap_os_errors(weights_path, "read"):
        content = weights_path.read_bytes()
    arrays = {name: array[None] for name, array in decode(content, weights_path).items()}
    with naming_damage(weights_path), safetensors.safe_open(weights_path, "numpy") as file:
        steps = (int(file.metadata()["step"]),)
    data = read_json(data_path)
    with naming_damage(data_path):
        channels = data["channels"]
    model = without_weights(read_config(read_json(config_path), config_path), channels, steps)
    return with_weights(model, arrays, weights_path)
