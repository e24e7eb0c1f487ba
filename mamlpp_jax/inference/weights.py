"""A model's weights as named arrays in safetensors; nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
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
from mamlpp_jax.utils.trees import named_leaves

DTYPES = (_HALF, _SINGLE) = ("float16", "float32")  # of the numbers in a file


def rounded_to_half(model: FewShotModel) -> FewShotModel:
    """The model with its numbers rounded to float16, as which they are stored; they stay float32 in memory.

    A number too large for float16 is a `ModelError`.
    """
    for name, leaf in named_arrays(model.meta, model.batch_stats).items():
        if np.abs(leaf).max(initial=0) > np.finfo(_HALF).max:
            raise ModelError(
                f"the array {name!r} has numbers beyond those of float16; store the model without half precision."
            )
    meta, batch_stats = jax.tree.map(
        lambda leaf: np.asarray(leaf, _HALF).astype(_SINGLE), (model.meta, model.batch_stats)
    )
    return dataclasses.replace(model, meta=meta, batch_stats=batch_stats)


def stored_dtype(model: FewShotModel) -> str:
    """The dtype in which all of a model's numbers are exact: float16 where they have been rounded to it."""
    with np.errstate(over="ignore"):
        exact = all(
            np.array_equal(leaf, np.asarray(leaf, _HALF).astype(leaf.dtype))
            for leaf in jax.tree.leaves((model.meta, model.batch_stats))
        )
    return _HALF if exact else _SINGLE


def encode(model: FewShotModel) -> bytes:
    """The content of a file of weights: arrays [E, ...] by name, such as "params/conv0/kernel", and whose they are."""
    config, dtype = model.config, stored_dtype(model)
    arrays = {
        name: np.ascontiguousarray(leaf, dtype)
        for name, leaf in named_arrays(model.meta, model.batch_stats).items()
    }
    about = {key: str(config[key]) for key in ("experiment", "method", "protocol", "seed")}
    about["steps"] = ", ".join(map(str, model.steps))
    return safetensors.numpy.save(arrays, about)


def decode(content: bytes, path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays in the content of a file by name; a `ModelError` names the file where it is not readable."""
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
    """The model with its arrays, [E, ...], once names, shapes and dtypes are what its configuration says.

    `dtype` is that of the numbers in the file `path`; None for any float. A `ModelError` says where the arrays are
    another model's.
    """
    sharding = SingleDeviceSharding(jax.local_devices()[0])
    try:
        shapes = state_shapes(ConfigDict(model.config), model.example_inputs, sharding)
    except Exception as error:  # from any layer: no network has these sizes
        raise ModelError(
            f"{path.with_name('config.json')} describes no network: {error}"
        ) from error
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((len(model.steps), *leaf.shape), leaf.dtype),
        _tree(shapes.meta, shapes.batch_stats),
    )
    tree = fill(wanted, arrays, path, dtype)
    batch_stats = tree.pop("batch_stats")
    return dataclasses.replace(model, meta=MetaParams(**tree), batch_stats=batch_stats)


def fill(
    template: Any, arrays: dict[str, np.ndarray], path: pathlib.Path, dtype: str | None = None
) -> Any:
    """The arrays of a file as a tree, once names, shapes and dtypes are those of a template's leaves.

    `dtype` is that of the numbers in the file `path`; None for any of the template's sort. A `ModelError` says where
    the arrays are another model's.
    """
    wanted = named_leaves(template)
    for name in sorted(wanted.keys() | arrays.keys()):
        if name not in arrays or name not in wanted:
            where = "does not have" if name in wanted else "has, unlike its config.json,"
            raise ModelError(f"{path} {where} the array {name!r}; it is another model's.")
        shape, array = wanted[name].shape, arrays[name]
        same_sort = array.dtype.kind == wanted[name].dtype.kind
        expected = dtype or (array.dtype if same_sort else wanted[name].dtype)
        if array.shape != shape or array.dtype != expected:
            raise ModelError(
                f"{path} has the array {name!r} as {array.dtype} {array.shape}; by the files beside it, it is "
                f"{expected} {shape}."
            )
    leaves = [arrays[name].astype(leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _tree(meta: MetaParams, batch_stats: Any) -> dict[str, Any]:
    return {**meta._asdict(), "batch_stats": batch_stats}


def named_arrays(meta: MetaParams, batch_stats: Any) -> dict[str, Any]:
    """Leaves by name, such as "params/conv0/kernel"."""
    return named_leaves(_tree(meta, batch_stats))
