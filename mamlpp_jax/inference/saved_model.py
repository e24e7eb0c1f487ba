"""The files of a saved model.

    config.json         the whole configuration that it was trained with, as a run writes it, without folders
    model.json          its members, images, statistics and inner steps, and the checksum of its weights
    model.safetensors   weights [E, ...] by name, such as "params/conv0/kernel"; nothing is ever unpickled
    README.md           the model card

`experiments.paper.keep` writes them beside a run's results. Two earlier layouts are read and no longer written:

    version 1   `config.json` has what `model.json` has now, and under "trained" some fields of the configuration
    archived    the best epoch of a run: its `config.json` and `data.json`, and `weights.safetensors`
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import safetensors
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax._version import __version__
from mamlpp_jax.config.own_code import check_allowed
from mamlpp_jax.errors import ConfigError, ModelError
from mamlpp_jax.inference.model import FewShotModel, without_weights
from mamlpp_jax.inference.model_card import model_card
from mamlpp_jax.inference.preprocessing import POLARITIES, ImageFormat
from mamlpp_jax.inference.weights import DTYPES, decode, encode, with_weights
from mamlpp_jax.statistics import check_usable
from mamlpp_jax.utils.files import exists, json_bytes, read_json, wrap_os_errors, write_atomically

CONFIG, DESCRIPTION, WEIGHTS, CARD = "config.json", "model.json", "model.safetensors", "README.md"
ARCHIVED_WEIGHTS = "weights.safetensors"
_FORMAT = "mamlpp_jax few-shot model"
_VERSION = 2


def model_files(model: FewShotModel, *, half: bool = False) -> dict[str, bytes]:
    """The files of a model by name, in the order in which they are to be written.

    With `half` the weights are stored in half precision; they are single again when they are loaded. One that is too
    large for that is a `ModelError`.
    """
    weights = encode(model, half=half)
    description = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "mamlpp_jax": __version__,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "dtype": DTYPES[half],
        "steps": model.steps,
        "statistics": model.statistics,
        "inner_steps": model.inner_steps,
        "image": model.image_format._asdict() if model.takes_images else None,
    }
    return {
        WEIGHTS: weights,
        CARD: (model.card or model_card(model)).encode(),
        CONFIG: json_bytes(model.config.to_dict()),
        DESCRIPTION: json_bytes(description),
    }


def save_model(folder: pathlib.Path, model: FewShotModel) -> None:
    """Writes a model into a folder, made when missing; each file of a model that it holds is replaced as a whole.

    Raises:
        ModelError: the folder is something else's, such as a run's working directory.
        WorkdirError: a file cannot be written.
    """
    is_run = exists(folder / "results.json")
    if is_run or not (_describes(folder / DESCRIPTION) or _describes(folder / CONFIG)):
        for name in (CONFIG, DESCRIPTION, WEIGHTS, CARD):
            if exists(folder / name):
                raise ModelError(
                    f"{folder / name} is not a saved model's; save the model to another folder."
                )
    with wrap_os_errors(folder, "make"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in model_files(model).items():
        write_atomically(folder / name, content)


def load_model(folder: pathlib.Path, *, allow_code: bool = False) -> FewShotModel:
    """Reads a model, also of an earlier layout; no weights are initialised.

    Args:
        folder: of the model.
        allow_code: whether code that its configuration names may be imported.

    Raises:
        ModelError: a file is foreign, damaged or of a newer version; names it.
        WorkdirError: a file is missing or cannot be read.
        ConfigError: it names code that is not allowed.
    """
    if exists(folder / DESCRIPTION):
        model = _load(folder, DESCRIPTION, _VERSION, allow_code)
    elif exists(folder / ARCHIVED_WEIGHTS):
        model = _load_archived(folder)
    else:
        model = _load(folder, CONFIG, 1)
    card = ""
    if exists(folder / CARD):
        with wrap_os_errors(folder / CARD, "read"):
            card = (folder / CARD).read_bytes().decode(errors="replace")
    return dataclasses.replace(model, card=card)


def holds_model(folder: pathlib.Path) -> bool:
    """Whether a folder holds a model beside whatever else, such as an archived run's results."""
    return exists(folder / DESCRIPTION) or exists(folder / ARCHIVED_WEIGHTS)


def _describes(path: pathlib.Path) -> bool:
    """Whether a file is the description of a saved model; others of its files may be damaged."""
    content = read_json(path) if exists(path) else None
    return isinstance(content, dict) and content.get("format") == _FORMAT


def _load(
    folder: pathlib.Path, described_in: str, version: int, allow_code: bool = False
) -> FewShotModel:
    path, config_path, weights_path = (folder / name for name in (described_in, CONFIG, WEIGHTS))
    content = read_json(path)
    if not _describes(path):
        raise ModelError(f'{path} is not a saved model\'s: its "format" is not "{_FORMAT}".')
    if (written := content.get("format_version")) != version:
        raise ModelError(
            f"{path} has the format version {written!r}; this mamlpp_jax {__version__} reads version {version} there. "
            f"Install the version that wrote it, which was {content.get('mamlpp_jax')!r}."
        )
    with _naming_damage(path):
        if version == _VERSION:
            dtype, stored = content["dtype"], read_json(config_path)
            if dtype not in DTYPES.values():
                raise ValueError(f'"dtype" must be {" or ".join(DTYPES.values())}.')
        else:
            dtype = None  # any float
            stored = {**content["trained"], "data.image_size": content["image"]["size"]}
    model = _described(content, _read_config(stored, config_path, allow_code), path)
    weights = _read_bytes(weights_path)
    if hashlib.sha256(weights).hexdigest() != content.get("sha256"):
        raise ModelError(
            f"{weights_path} is damaged, or another model's than {path.name} beside it: its SHA-256 differs."
        )
    return with_weights(model, decode(weights, weights_path), weights_path, dtype)


def _load_archived(folder: pathlib.Path) -> FewShotModel:
    names = (CONFIG, "data.json", ARCHIVED_WEIGHTS)
    config_path, data_path, weights_path = (folder / name for name in names)
    content = _read_bytes(weights_path)
    arrays = {name: array[None] for name, array in decode(content, weights_path).items()}
    with _naming_damage(weights_path), safetensors.safe_open(weights_path, "numpy") as file:
        steps = (int(file.metadata()["step"]),)
    data = read_json(data_path)
    with _naming_damage(data_path):
        channels = data["channels"]
    model = without_weights(_read_config(read_json(config_path), config_path), channels, steps)
    return with_weights(model, arrays, weights_path)


def _read_bytes(path: pathlib.Path) -> bytes:
    with wrap_os_errors(path, "read"):
        return path.read_bytes()


def _read_config(stored: Any, path: pathlib.Path, allow_code: bool = False) -> ConfigDict:
    """The configuration that a model was trained with, completed and checked field by field."""
    with _naming_damage(path):
        config = config_lib.complete(stored, to_train=False)
        config_lib.check_values(config)
    check_allowed(config, path, allow_code)
    return config


def _described(content: dict[str, Any], config: ConfigDict, path: pathlib.Path) -> FewShotModel:
    """The model that a description and a configuration make, but for its weights."""
    with _naming_damage(path):
        config_lib.check_value("train.inner_steps", content["inner_steps"])
        check_usable(content["statistics"], config.norm.train_statistics, averaged=False)
        steps = tuple(content["steps"])
        if not steps or not all(type(step) is int and step >= 0 for step in steps):
            raise ValueError('"steps" must be a list of whole numbers, one per member.')
        model = without_weights(config, 0, steps)
        image = _image_format(content["image"]) if model.takes_images else model.image_format
        return dataclasses.replace(
            model,
            image_format=image,
            statistics=content["statistics"],
            inner_steps=content["inner_steps"],
        )


def _image_format(entry: dict[str, Any]) -> ImageFormat:
    size, channels, polarity = entry["size"], entry["channels"], entry["polarity"]
    mean, std = (tuple(map(float, entry[name])) for name in ("mean", "std"))
    config_lib.check_value("data.image_size", size)
    if channels not in (1, 3) or type(channels) is not int:
        raise ValueError('"channels" must be 1 or 3.')
    if polarity not in (None, *(POLARITIES if channels == 1 else ())):
        raise ValueError(f'"polarity" must be null or, for grey, one of {", ".join(POLARITIES)}.')
    if len(mean) not in (1, channels) or len(std) != len(mean):
        raise ValueError('"mean" and "std" must have a number for each channel or one for all.')
    if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise ValueError('"mean" and "std" must be finite, "std" positive.')
    return ImageFormat(size, channels, mean, std, polarity)


@contextlib.contextmanager
def _naming_damage(path: pathlib.Path) -> Iterator[None]:
    """Turns errors that wrong content of a file leads to into one that names the file."""
    try:
        yield
    except ConfigError as error:
        raise ModelError(f"{path} does not fit mamlpp_jax {__version__}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ModelError(f"{path} is damaged: {problem}") from error
