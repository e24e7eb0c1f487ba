"""The files of a saved model.

    config.json         the whole configuration that it was trained with, as a run writes it, without folders
    model.json          its members, images, statistics and inner steps, and the checksum of its weights
    model.safetensors   weights [E, ...] by name, such as "params/conv0/kernel"; nothing is ever unpickled
    README.md           the model card

`experiments.paper.keep` writes them beside a run's results. Earlier layouts are read by `older_models`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import Any

from mamlpp_jax._version import __version__
from mamlpp_jax.errors import ModelError
from mamlpp_jax.inference import older_models
from mamlpp_jax.inference.model import FewShotModel
from mamlpp_jax.inference.model_card import model_card
from mamlpp_jax.inference.model_files import (
    FORMAT,
    describe,
    naming_damage,
    read_config,
    read_description,
)
from mamlpp_jax.inference.weights import DTYPES, decode, encode, read_bytes, with_weights
from mamlpp_jax.utils.files import exists, json_bytes, read_json, wrap_os_errors, write_atomically

CONFIG, DESCRIPTION, WEIGHTS, CARD = "config.json", "model.json", "model.safetensors", "README.md"
_VERSION = 2


def model_files(model: FewShotModel, *, half: bool = False) -> dict[str, bytes]:
    """The files of a model by name, in the order in which they are to be written.

    Args:
        model: with its weights.
        half: stores the weights in half precision; they are single again when they are loaded.

    Raises:
        ModelError: a weight is too large for half precision.
    """
    weights = encode(model, half=half)
    description = {
        "format": FORMAT,
        "format_version": _VERSION,
        "mamlpp_jax": __version__,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "dtype": DTYPES[half],
        **describe(model),
    }
    return {
        WEIGHTS: weights,
        CARD: (model.card or model_card(model)).encode(),
        CONFIG: json_bytes(model.config.to_dict()),
        DESCRIPTION: json_bytes(description),
    }


def save_model(folder: pathlib.Path, model: FewShotModel) -> None:
    """Writes a model; each file is replaced as a whole.

    Args:
        folder: made when missing; a model that it holds is replaced.
        model: what to write.

    Raises:
        ModelError: the folder is something else's, such as a run's working directory.
        WorkdirError: a file cannot be written.
    """
    is_ours = exists(folder / DESCRIPTION) and _is_ours(read_json(folder / DESCRIPTION))
    is_run = exists(folder / "results.json")
    if is_run or not (is_ours or older_models.is_version_1(folder)):
        for name in (CONFIG, DESCRIPTION, WEIGHTS, CARD):
            if exists(folder / name):
                raise ModelError(
                    f"{folder / name} is not a saved model's; save the model to another folder."
                )
    with wrap_os_errors(folder, "make"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in model_files(model).items():
        write_atomically(folder / name, content)


def load_model(folder: pathlib.Path) -> FewShotModel:
    """Reads a model, also of an earlier layout; no weights are initialised.

    Raises:
        ModelError: a file is foreign, damaged or of a newer version; names it.
        WorkdirError: a file is missing or cannot be read.
    """
    if exists(folder / DESCRIPTION):
        model = _load(folder)
    elif exists(folder / older_models.ARCHIVED_WEIGHTS):
        model = older_models.load_archived(folder)
    else:
        model = older_models.load_version_1(folder)
    card = ""
    if exists(folder / CARD):
        with wrap_os_errors(folder / CARD, "read"):
            card = (folder / CARD).read_bytes().decode(errors="replace")
    return dataclasses.replace(model, card=card)


def holds_model(folder: pathlib.Path) -> bool:
    """Whether a folder holds a model beside whatever else, such as an archived run's results."""
    return exists(folder / DESCRIPTION) or exists(folder / older_models.ARCHIVED_WEIGHTS)


def _load(folder: pathlib.Path) -> FewShotModel:
    path, config_path, weights_path = (folder / name for name in (DESCRIPTION, CONFIG, WEIGHTS))
    content = read_json(path)
    if not _is_ours(content):
        raise ModelError(f'{path} is not a saved model\'s: its "format" is not "{FORMAT}".')
    if (version := content.get("format_version")) != _VERSION:
        raise ModelError(
            f"{path} has the format version {version!r}; this mamlpp_jax {__version__} reads version {_VERSION}. "
            f"Install the version that wrote it, which was {content.get('mamlpp_jax')!r}."
        )
    model = read_description(content, read_config(read_json(config_path), config_path), path)
    with naming_damage(path):
        dtype = content["dtype"]
        if dtype not in DTYPES.values():
            raise ValueError(f'"dtype" must be {" or ".join(DTYPES.values())}.')
    arrays = decode(read_bytes(weights_path, content.get("sha256"), path), weights_path)
    return with_weights(model, arrays, weights_path, dtype)


def _is_ours(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT
