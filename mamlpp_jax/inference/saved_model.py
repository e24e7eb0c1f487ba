"""The files of a saved model: `config.json`, `model.safetensors` and a model card. Nothing is ever unpickled.

What `experiments.paper.keep` keeps of a run is read too: the run's `config.json` and its best epoch's weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import SingleDeviceSharding

from mamlpp_jax import config as config_lib
from mamlpp_jax._version import __version__
from mamlpp_jax.errors import ModelError
from mamlpp_jax.inference.model import (
    LATER_FIELDS,
    LEARNER_FIELDS,
    FewShotModel,
    learner_config,
    without_weights,
)
from mamlpp_jax.inference.model_card import model_card
from mamlpp_jax.inference.preprocessing import POLARITIES, ImageFormat
from mamlpp_jax.statistics import check_usable
from mamlpp_jax.training.learner import state_shapes
from mamlpp_jax.types import MetaParams, RunningStats
from mamlpp_jax.utils.files import exists, read_json, wrap_os_errors, write_atomically, write_json

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
KEPT_WEIGHTS, _KEPT_DATA = "weights.safetensors", "data.json"  # of what is kept of a run
_FORMAT, _FORMAT_VERSION = "mamlpp_jax few-shot model", 1


def save_model(folder: pathlib.Path, model: FewShotModel) -> None:
    """Writes a model; each file is replaced as a whole.

    Args:
        folder: made when missing; a model that it holds is replaced.
        model: what to write.

    Raises:
        ModelError: the folder is something else's, such as a run's working directory.
        WorkdirError: a file cannot be written.
    """
    config_file = folder / CONFIG
    if not (exists(config_file) and _is_ours(read_json(config_file))):
        for name in (CONFIG, WEIGHTS, CARD):
            if exists(folder / name):
                raise ModelError(
                    f"{folder / name} is not a saved model's; save the model to another folder."
                )
    with wrap_os_errors(folder, "make"):
        folder.mkdir(parents=True, exist_ok=True)
    weights = weights_bytes(model.meta, model.batch_stats)
    card = model.card or model_card(model)
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / CARD, card.encode())
    write_json(config_file, _to_json(model, weights))


def load_model(folder: pathlib.Path) -> FewShotModel:
    """Reads a model; no weights are initialised.

    Raises:
        ModelError: a file is foreign, damaged or of a newer version; names it.
        WorkdirError: a file is missing or cannot be read.
    """
    config_file = folder / CONFIG
    content = read_json(config_file)
    if not _is_ours(content):
        raise ModelError(f'{config_file} is not a saved model\'s: its "format" is not "{_FORMAT}".')
    version = content.get("format_version")
    if version != _FORMAT_VERSION:
        raise ModelError(
            f"{config_file} has the format version {version!r}; this mamlpp_jax {__version__} reads version "
            f"{_FORMAT_VERSION}. Install the version that wrote it, which was {content.get('mamlpp_jax')!r}."
        )
    with _naming_damage(config_file):
        model = _from_json(content)
    card = _read(folder / CARD).decode(errors="replace") if exists(folder / CARD) else ""
    weights_file = folder / WEIGHTS
    weights = _read(weights_file)
    if hashlib.sha256(weights).hexdigest() != content.get("sha256"):
        raise ModelError(
            f"{weights_file} is damaged, or another model's than {CONFIG} beside it: its SHA-256 differs."
        )
    model = _with_weights(model, _parse(weights, weights_file), weights_file)
    return dataclasses.replace(model, card=card)


def load_kept(folder: pathlib.Path) -> FewShotModel:
    """Reads the best epoch of a run from what is kept of it; no weights are initialised.

    Args:
        folder: holds the run's `config.json`, `data.json` and `weights.safetensors`. Fields that came after the run
            are not missed.

    Raises:
        ModelError: a file is damaged or another run's; names it.
        WorkdirError: a file is missing or cannot be read.
    """
    config_file, data_file, weights_file = (
        folder / name for name in (CONFIG, _KEPT_DATA, KEPT_WEIGHTS)
    )
    content = _read(weights_file)
    weights = {name: array[None] for name, array in _parse(content, weights_file).items()}
    with _naming_damage(weights_file), safetensors.safe_open(weights_file, "numpy") as file:
        steps = (int(file.metadata()["step"]),)
    config, data = read_json(config_file), read_json(data_file)
    with _naming_damage(data_file):
        channels = data["channels"]
    with _naming_damage(config_file):
        fields = {**LATER_FIELDS, **dict(config_lib.flatten(config))}
        model = without_weights(fields, channels, steps)
        model = _from_json(_to_json(model, content))  # Checks what a saved model is checked for.
    return _with_weights(model, weights, weights_file)


@contextlib.contextmanager
def _naming_damage(path: pathlib.Path) -> Iterator[None]:
    """Turns what wrong content of a file leads to into an error that names the file."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ModelError(f"{path} is damaged: {problem}") from error


def _is_ours(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == _FORMAT


def _to_json(model: FewShotModel, weights: bytes) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "mamlpp_jax": __version__,
        "sha256": hashlib.sha256(weights).hexdigest(),  # of the weights
        "steps": model.steps,
        "statistics": model.statistics,
        "inner_steps": model.inner_steps,
        "image": model.image_format._asdict(),
        "trained": dict(model.fields),
    }


def _from_json(content: dict[str, Any]) -> FewShotModel:
    """A model without weights.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: an entry is missing or not of its kind.
    """
    trained = {**LATER_FIELDS, **content["trained"]}
    fields = {name: trained[name] for name in LEARNER_FIELDS}
    for name, value in fields.items():
        config_lib.check_value(name, value)
    config_lib.check_value("train.inner_steps", content["inner_steps"])
    check_usable(content["statistics"], str(fields["norm.train_statistics"]), averaged=False)
    steps = tuple(content["steps"])
    if not steps or not all(type(step) is int and step >= 0 for step in steps):
        raise ValueError('"steps" must be a list of whole numbers, one per member.')
    return FewShotModel(
        fields=fields,
        image_format=_image_format(content["image"]),
        meta=MetaParams({}, {}, {}),
        batch_stats={},
        steps=steps,
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


def weights_bytes(meta: MetaParams, batch_stats: RunningStats, **about: str) -> bytes:
    """Arrays by name, such as "params/conv0/kernel", in the format safetensors.

    Args:
        meta: what the outer loop learned.
        batch_stats: running statistics.
        **about: further entries of the file.
    """
    named = _named(meta, batch_stats).items()
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(a) for name, a in named}, about or None
    )


def _named(meta: Any, batch_stats: Any) -> dict[str, Any]:
    """Leaves by name, such as "params/conv0/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path({**meta._asdict(), "batch_stats": batch_stats})
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _read(path: pathlib.Path) -> bytes:
    with wrap_os_errors(path, "read"):
        return path.read_bytes()


def _parse(content: bytes, path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(content)
    except Exception as error:  # the library raises many kinds; each means the same to the user
        raise ModelError(f"{path} is not readable as safetensors: {error}") from error


def _with_weights(
    model: FewShotModel, weights: dict[str, np.ndarray], path: pathlib.Path
) -> FewShotModel:
    """Puts arrays into their places, once names, shapes and dtypes are what the model has."""
    sharding = SingleDeviceSharding(jax.local_devices()[0])
    try:
        shapes = state_shapes(learner_config(model.fields), model.image_format.shape, sharding)
    except Exception as error:  # from any layer: no network has these sizes
        raise ModelError(f"{path.with_name(CONFIG)} describes no network: {error}") from error
    wanted = _named(shapes.meta, shapes.batch_stats)
    for name in sorted(wanted.keys() | weights.keys()):
        if name not in weights or name not in wanted:
            where = "does not have" if name in wanted else f"has, unlike its {CONFIG},"
            raise ModelError(f"{path} {where} the array {name!r}; it is another model's.")
        shape, found = (len(model.steps), *wanted[name].shape), weights[name]
        if found.shape != shape or found.dtype != wanted[name].dtype:
            raise ModelError(
                f"{path} has the array {name!r} as {found.dtype} {found.shape}; its {CONFIG} has it as "
                f"{wanted[name].dtype} {shape}."
            )
    template = {**shapes.meta._asdict(), "batch_stats": shapes.batch_stats}
    tree = jax.tree.unflatten(jax.tree.structure(template), [weights[name] for name in wanted])
    batch_stats = tree.pop("batch_stats")
    return dataclasses.replace(model, meta=MetaParams(**tree), batch_stats=batch_stats)
