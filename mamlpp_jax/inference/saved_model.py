"""The files of a saved model.

    config.json         the whole configuration that it was trained with, as a run writes it, without folders
    model.json          its members, images, statistics and inner steps, and the checksum of its weights
    model.safetensors   weights [E, ...] by name, such as "params/conv0/kernel"; nothing is ever unpickled
    fitted.safetensors  of a model that has learned classes: adapted weights and embeddings of its support set; its
                        classes stand in model.json
    README.md           the model card

`experiments.paper.keep` writes them beside a run's results. Two earlier layouts are read and no longer written:

    version 1   `config.json` has what `model.json` has now, and under "trained" some fields of the configuration
    archived    the best epoch of a run: its `config.json` and `data.json`, and `weights.safetensors`
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax._version import __version__
from mamlpp_jax.config.own_code import check_allowed
from mamlpp_jax.errors import ConfigError, DataError, ModelError
from mamlpp_jax.inference.adaptation import Adapted
from mamlpp_jax.inference.fitted import Fitted, fitted_shapes
from mamlpp_jax.inference.labels import decode_classes, encode_classes
from mamlpp_jax.inference.model import FewShotModel, without_weights
from mamlpp_jax.inference.model_card import model_card
from mamlpp_jax.inference.preprocessing import POLARITIES, ImageFormat
from mamlpp_jax.inference.weights import (
    DTYPES,
    decode,
    encode,
    fill,
    stored_dtype,
    with_weights,
)
from mamlpp_jax.statistics import check_usable
from mamlpp_jax.utils.files import exists, json_bytes, read_json, wrap_os_errors, write_atomically
from mamlpp_jax.utils.trees import named_leaves

CONFIG, DESCRIPTION, WEIGHTS, CARD = "config.json", "model.json", "model.safetensors", "README.md"
FITTED, ARCHIVED_WEIGHTS = "fitted.safetensors", "weights.safetensors"
_FORMAT = "mamlpp_jax few-shot model"
_VERSION = 2


def model_files(
    model: FewShotModel,
    *,
    fitted: Fitted | None = None,
    reject_below: float | None = None,
) -> dict[str, bytes]:
    """The files of a model and of classes that it has learned by name, in the order in which they are to be written."""
    weights = encode(model)
    description = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "mamlpp_jax": __version__,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "dtype": stored_dtype(model),
        **_settings(model),
    }
    files = {}
    if fitted is not None and (classes := _stored_classes(fitted)):
        arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(_arrays(fitted)).items()}
        files[FITTED] = safetensors.numpy.save(arrays)
        digest = hashlib.sha256(files[FITTED]).hexdigest()
        description["fitted"] = {"sha256": digest, "reject_below": reject_below, **classes}
    return {
        **files,
        WEIGHTS: weights,
        CARD: (model.card or model_card(model)).encode(),
        CONFIG: json_bytes(model.config.to_dict()),
        DESCRIPTION: json_bytes(description),
    }


def _settings(model: FewShotModel) -> dict[str, Any]:
    """The part of a description that what is learned depends on."""
    return {
        "steps": model.steps,
        "statistics": model.statistics,
        "inner_steps": model.inner_steps,
        "temperature": model.temperature,
        "image": model.image_format._asdict() if model.takes_images else None,
    }


def _arrays(fitted: Fitted) -> dict[str, Any]:
    adapted = fitted.adapted._asdict()
    return {"adapted": adapted, "targets": fitted.targets, "support": fitted.support}


def _stored_classes(fitted: Fitted) -> dict[str, Any]:
    """The entries of the classes; none, with a warning, where a label cannot be stored."""
    try:
        return encode_classes(fitted.classes)
    except DataError as error:
        warnings.warn(
            f"The model is saved without its classes: {error}. Use strings, numbers, booleans, None or tuples of these "
            "to save them.",
            stacklevel=5,
        )
        return {}


def save_model(
    folder: pathlib.Path,
    model: FewShotModel,
    fitted: Fitted | None = None,
    reject_below: float | None = None,
) -> None:
    """Writes a model, and classes that it has learned, into a folder, which is made when missing.

    Each file of a model that it holds is replaced as a whole.

    Raises:
        ModelError: the folder is something else's, such as a run's working directory.
        WorkdirError: a file cannot be written.
    """
    is_run = exists(folder / "results.json")
    if is_run or not (_describes(folder / DESCRIPTION) or _describes(folder / CONFIG)):
        for name in (CONFIG, DESCRIPTION, WEIGHTS, FITTED, CARD):
            if exists(folder / name):
                raise ModelError(
                    f"{folder / name} is not a saved model's; save the model to another folder."
                )
    files = model_files(model, fitted=fitted, reject_below=reject_below)
    with wrap_os_errors(folder, "make"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    if FITTED not in files:
        with wrap_os_errors(folder / FITTED, "remove"):
            (folder / FITTED).unlink(missing_ok=True)  # of the model that was replaced


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


def load_fitted(folder: pathlib.Path, model: FewShotModel) -> tuple[Fitted | None, float | None]:
    """Reads the classes that a saved model has learned, and their `reject_below`; None where there are none.

    Args:
        folder: the model's, or anything else, which holds none.
        model: from `load_model`; classes that were learned with other settings are left out, with a warning.

    Raises:
        ModelError: a file is foreign or damaged; names it.
        WorkdirError: a file cannot be read.
    """
    path, arrays_path = folder / DESCRIPTION, folder / FITTED
    description = read_json(path) if exists(path) else {}
    if (stored := description.get("fitted")) is None:
        return None, None
    with _naming_damage(path):
        classes, reject_below = decode_classes(stored), stored["reject_below"]
        if reject_below is not None and not 0 <= reject_below <= 1:
            raise ValueError('"reject_below" must be null or a number in 0..1.')
        digest, settings = stored["sha256"], json.loads(json_bytes(_settings(model)))
        if any(description[name] != value for name, value in settings.items()):
            warnings.warn(
                f"{folder} has classes that were learned with other settings; call fit, or leave the settings out.",
                stacklevel=3,
            )
            return None, None
    arrays = decode(_read_bytes(arrays_path, digest, path), arrays_path)
    count = arrays.get("targets", np.empty(0)).size
    if count < len(classes):
        raise ModelError(f"{arrays_path} is damaged: it has too few targets for the classes.")
    tree = fill(_arrays(fitted_shapes(model, classes, count)), arrays, arrays_path)
    if set(tree["targets"].tolist()) != set(range(len(classes))):
        raise ModelError(f"{arrays_path} is damaged: its targets are not those of the classes.")
    adapted = Adapted(**jax.device_put(tree["adapted"]))
    return Fitted(model, classes, adapted, tree["targets"], tree["support"]), reject_below


def holds_model(folder: pathlib.Path) -> bool:
    """Checks whether a folder holds a model beside whatever else, such as an archived run's results."""
    return exists(folder / DESCRIPTION) or exists(folder / ARCHIVED_WEIGHTS)


def _describes(path: pathlib.Path) -> bool:
    """Checks whether a file is the description of a saved model; others of its files may be damaged."""
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
            if dtype not in DTYPES:
                raise ValueError(f'"dtype" must be {" or ".join(DTYPES)}.')
        else:
            dtype = None  # any float
            stored = {**content["trained"], "data.image_size": content["image"]["size"]}
    model = _described(content, _read_config(stored, config_path, allow_code), path)
    weights = _read_bytes(weights_path, content.get("sha256"), path)
    return with_weights(model, decode(weights, weights_path), weights_path, dtype)


def _load_archived(folder: pathlib.Path) -> FewShotModel:
    names = (CONFIG, "data.json", ARCHIVED_WEIGHTS)
    config_path, data_path, weights_path = (folder / name for name in names)
    with wrap_os_errors(weights_path, "read"):
        content = weights_path.read_bytes()
    arrays = {name: array[None] for name, array in decode(content, weights_path).items()}
    with _naming_damage(weights_path), safetensors.safe_open(weights_path, "numpy") as file:
        steps = (int(file.metadata()["step"]),)
    data = read_json(data_path)
    with _naming_damage(data_path):
        channels = data["channels"]
    model = without_weights(_read_config(read_json(config_path), config_path), channels, steps)
    return with_weights(model, arrays, weights_path)


def _read_bytes(path: pathlib.Path, sha256: Any, described_in: pathlib.Path) -> bytes:
    """The content of a file that must have the checksum of the file that describes it."""
    with wrap_os_errors(path, "read"):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelError(
            f"{path} is damaged, or another model's than {described_in.name} beside it: its SHA-256 differs."
        )
    return content


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
        temperature = content.get("temperature", 1.0)
        if type(temperature) not in (int, float) or not 0 < temperature < math.inf:
            raise ValueError('"temperature" must be a number above 0.')
        model = without_weights(config, 0, steps)
        image = _image_format(content["image"]) if model.takes_images else model.image_format
        return dataclasses.replace(
            model,
            image_format=image,
            statistics=content["statistics"],
            inner_steps=content["inner_steps"],
            temperature=float(temperature),
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
