"""Writing functions as portable StableHLO, which programs with JAX alone can load."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.export
import numpy as np

from mamlpp_jax.errors import ModelError
from mamlpp_jax.types import Array
from mamlpp_jax.utils.files import write_atomically

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(
    path: pathlib.Path,
    function: Callable[..., Array],
    inputs: Sequence[tuple[int | str, tuple[int, ...]]],
) -> None:
    """Writes a pure function of uint8 arrays, with everything it closes over; needs the package flatbuffers.

    `inputs` has for each argument its first axis, a number or a name for any number, and the other axes.
    """
    try:
        importlib.import_module("flatbuffers")  # which JAX serialises with and does not require
    except ImportError as error:
        raise ModelError(
            f"{path} cannot be written without the package flatbuffers ({error}); install it with "
            "`pip install flatbuffers` or `pip install 'mamlpp_jax[export]'`."
        ) from error
    shapes = [
        jax.ShapeDtypeStruct((*jax.export.symbolic_shape(str(first)), *rest), np.uint8)
        for first, rest in inputs
    ]
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*shapes)
    write_atomically(path, bytes(exported.serialize()))
