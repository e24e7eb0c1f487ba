"""Writing functions as ONNX, for programs without JAX."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from mamlpp_jax.errors import ModelError
from mamlpp_jax.inference.stablehlo import write_export
from mamlpp_jax.types import Array


def write_onnx(
    path: pathlib.Path, function: Callable[[Array], Array], shape: tuple[int, int, int]
) -> None:
    """Writes a pure function of uint8 images [n, H, W, C], with everything it closes over; needs jax2onnx."""
    logger = logging.getLogger("jax2onnx")
    logger.setLevel(
        logging.CRITICAL
    )  # Converters of other libraries, which JAX may be too new for, complain.
    try:
        import jax2onnx
    except ImportError as error:
        raise ModelError(
            f"{path} cannot be written without the package jax2onnx ({error}); install it with "
            "`pip install 'mamlpp_jax[onnx]'`."
        ) from error
    try:
        model = jax2onnx.to_onnx(function, inputs=[jax.ShapeDtypeStruct(("n", *shape), np.uint8)])
    except Exception as error:  # of whatever in the backbone has no converter
        raise ModelError(f"{path}: jax2onnx cannot convert this model ({error}).") from error
    write_export(path, model.SerializeToString(), [("n", shape)], readable="by ONNX runtimes")
