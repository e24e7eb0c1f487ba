"""A model's weights as named arrays in safetensors; nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from mamlpp_jax.errors import ModelError
from mamlpp_jax.inference.model import FewShotModel
from mamlpp_jax.training.learner import state_shapes
from mamlpp_jax.types import MetaParams
from mamlpp_jax.utils.files import wrap_os_errors

# Of the numbers in a file, by whether they are stored in half precision.
DTYPES = {False: "float32", True: "float16"}


def encode(model: FewShotModel, *, half: bool = False) -> bytes:
    """The content of a file of weights: arrays [E, ...] by name, such as "params/conv0/kernel", and whose they are.

    Args:
        model: of E members.
        half: rounds the numbers to float16, in half the space.

    Raises:
        ModelError: a number is too large for float16.
    """
    config, arrays = model.config, {}
    for name, leaf in _named(model.meta, model.batch_stats).items():
        with np.errstate(over="ignore"):
            arrays[name] = np.ascontiguousarray(leaf, DTYPES[half])
        if half and not np.isfinite(arrays[name]).all():
            raise ModelError(
                f"the array {name!r} has numbers beyond those of float16; store the model without half precision."
            )
    about = {key: str(config[key]) for key in ("experiment", "method", "protocol", "seed")}
    about["steps"] = ", ".join(map(str, model.steps))
    return safetensors.numpy.save(arrays, about)


def read_bytes(path: pathlib.Path, sha256: str | None, described_in: pathlib.Path) -> bytes:
    """The content of a file of weights.

    Args:
        path: the file.
        sha256: checksum that it must have.
        described_in: the file that has the checksum, for the error.

    Raises:
        ModelError: it has another checksum.
        WorkdirError: it cannot be read.
    """
    with wrap_os_errors(path, "read"):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelError(
            f"{path} is damaged, or another model's than {described_in.name} beside it: its SHA-256 differs."
        )
    return content


def decode(content: bytes, path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name.

    Args:
        content: of the file.
        path: the file, for the error.

    Raises:
        ModelError: it is not readable.
    """
    try:
        return safetensors.numpy.load(content)
    except Exception as error:  # the library raises many kinds; each means the same to the user
        raise ModelError(f"{path} is not readable as safetensors: {error}") from error


def with_weights(
    model: FewShotModel,
    arrays: dict[str, np.ndarray],
    path: pathlib.Path,
    dtype: str | None = None,
) -> FewShotModel:
    """The model with its arrays, once names, shapes and dtypes are what its configuration says.

    Args:
        model: without weights.
        arrays: [E, ...] by name.
        path: the file that they are of, for the error.
        dtype: dtype of the numbers in the file; None for any float.

    Raises:
        ModelError: the arrays are another model's, or the configuration describes no network.
    """
    sharding = SingleDeviceSharding(jax.local_devices()[0])
    try:
        shapes = state_shapes(ConfigDict(model.config), model.image_format.shape, sharding)
    except Exception as error:  # from any layer: no network has these sizes
        raise ModelError(
            f"{path.with_name('config.json')} describes no network: {error}"
        ) from error
    wanted = _named(shapes.meta, shapes.batch_stats)
    for name in sorted(wanted.keys() | arrays.keys()):
        if name not in arrays or name not in wanted:
            where = "does not have" if name in wanted else "has, unlike its config.json,"
            raise ModelError(f"{path} {where} the array {name!r}; it is another model's.")
        shape, array = (len(model.steps), *wanted[name].shape), arrays[name]
        expected = dtype or (array.dtype if array.dtype.kind == "f" else wanted[name].dtype)
        if array.shape != shape or array.dtype != expected:
            raise ModelError(
                f"{path} has the array {name!r} as {array.dtype} {array.shape}; by the files beside it, it is "
                f"{expected} {shape}."
            )
    template = {**shapes.meta._asdict(), "batch_stats": shapes.batch_stats}
    leaves = [arrays[name].astype(leaf.dtype) for name, leaf in wanted.items()]
    tree = jax.tree.unflatten(jax.tree.structure(template), leaves)
    batch_stats = tree.pop("batch_stats")
    return dataclasses.replace(model, meta=MetaParams(**tree), batch_stats=batch_stats)


def _named(meta: MetaParams, batch_stats: Any) -> dict[str, Any]:
    """Leaves by name, such as "params/conv0/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path({**meta._asdict(), "batch_stats": batch_stats})
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
