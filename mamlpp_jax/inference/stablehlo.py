"""Writing functions as portable StableHLO, which programs with JAX alone can load.

JAX promises to read an export for six months after the release that wrote it, so keep the saved model and export it
again; `FILE.json` beside an export has its date and the version of JAX. Exports are for `PLATFORMS`: CPU, CUDA and TPU
(neither of the latter two tested).
"""

from __future__ import annotations

import datetime
import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import numpy as np

from mamlpp_jax._version import __version__
from mamlpp_jax.errors import ModelError
from mamlpp_jax.types import Array
from mamlpp_jax.utils.files import write_atomically, write_json

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(
    path: pathlib.Path,
    function: Callable[..., Array],
    inputs: Sequence[tuple[int | str, tuple[int, ...]]],
) -> None:
    """Writes a pure function of uint8 arrays, with everything it closes over, and `FILE.json`; needs flatbuffers.

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
    about = "by JAX for six months after the release of this version; after that, export again"
    write_export(path, bytes(exported.serialize()), inputs, platforms=PLATFORMS, readable=about)


def write_export(path: pathlib.Path, content: bytes, inputs: Any, **about: Any) -> None:
    """Writes an export, and beside it the date, the versions that made it, and its inputs."""
    write_atomically(path, content)
    provenance = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "jax": jax.__version__,
        "mamlpp_jax": __version__,
        "inputs": [[first, *rest] for first, rest in inputs],
        **about,
    }
    write_json(path.with_name(f"{path.name}.json"), provenance)
