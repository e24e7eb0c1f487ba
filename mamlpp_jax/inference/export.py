"""Exporting a model with its inner loop, for programs with JAX alone."""

from __future__ import annotations

import os
import pathlib

from jax import numpy as jnp

from mamlpp_jax import config as config_lib
from mamlpp_jax.inference.adaptation import adapt_members, probabilities
from mamlpp_jax.inference.classifier import FewShotClassifier
from mamlpp_jax.inference.stablehlo import write_stablehlo
from mamlpp_jax.types import Array


def export_adaptation(
    model: FewShotClassifier | str | os.PathLike[str],
    file: str | os.PathLike[str],
    way: int,
    shot: int,
) -> None:
    """Writes the whole function that learns classes and predicts, as portable StableHLO.

    `jax.export.deserialize(content).call(support_images, query_images)` takes uint8 [way * shot, H, W, C], the
    images of the first class first, and uint8 [n, H, W, C] for any n, as `FewShotClassifier.preprocess` makes them; it
    returns the queries' probabilities, float32 [n, way]. `inference.stablehlo` says how long and where it can be read.

    Args:
        model: a classifier, whether fitted or not, or a name as in `FewShotClassifier.from_pretrained`.
        file: to write.
        way: classes.
        shot: support images per class.

    Raises:
        ConfigError: way or shot is out of range.
        ModelError: there is no such model, or `flatbuffers` is not installed.
        WorkdirError: a file cannot be read or written.

    Example:
        >>> maml.export_adaptation("glyphs", home / "glyphs.stablehlo", way=5, shot=1)
        >>> exported = jax.export.deserialize((home / "glyphs.stablehlo").read_bytes())
        >>> [argument.shape for argument in exported.in_avals]
        [(5, 28, 28, 1), (n, 28, 28, 1)]
    """
    config_lib.check_value("task.way", way)
    config_lib.check_value("task.shot", shot)
    if not isinstance(model, FewShotClassifier):
        model = FewShotClassifier.from_pretrained(model)
    trained = model.configured
    learner, image_format = trained.learner(way, "xla"), trained.image_format

    def adapt_and_predict(support: Array, query: Array) -> Array:
        labels = jnp.repeat(jnp.arange(way, dtype=jnp.int32), shot)
        adapted = adapt_members(
            learner, image_format, way, trained.meta, trained.batch_stats, support, labels
        )
        return probabilities(learner, image_format, trained.temperature, adapted, query)

    shape = image_format.shape
    write_stablehlo(pathlib.Path(file), adapt_and_predict, [(way * shot, shape), ("n", shape)])
