"""From a Flax module to the pure function the loops call."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mamlpp_jax.types import Array, Forward, Moments, NormParams, Params, RunningStats


class ModelVariables(NamedTuple):
    """A fresh backbone, for one inner step.

    Attributes:
        params: weights.
        norm: batch-norm scale (1) and bias (0), leaves [F].
        batch_stats: running mean (0) and variance (1), leaves [F].
    """

    params: Params
    norm: NormParams
    batch_stats: RunningStats


def init_model(module: nn.Module, key: Array, image_shape: tuple[int, int, int]) -> ModelVariables:
    """Draws the weights of a backbone.

    Args:
        module: a backbone that follows `Conv4`'s collections.
        key: a JAX random key.
        image_shape: (H, W, C).
    """
    variables = module.init(key, jnp.zeros((1, *image_shape)))
    return ModelVariables(variables["params"], variables["norm"], variables["batch_stats"])


def make_forward(module: nn.Module) -> Forward:
    """Wraps a backbone as `mamlpp_jax.types.Forward`."""

    def forward(
        params: Params, norm: NormParams, images: Array, statistics: Moments | None = None
    ) -> tuple[Array, Moments]:
        variables = {"params": params, "norm": norm}
        if statistics is not None:
            variables["batch_stats"] = _mean_and_var(statistics)
        logits, left = module.apply(
            variables, images, use_given=statistics is not None, mutable=["moments"]
        )
        return logits, left["moments"]

    return forward


def _mean_and_var(moments: Moments) -> Moments:
    return {layer: {"mean": m["mean"], "var": m["var"]} for layer, m in moments.items()}


def update_running(running: RunningStats, moments: Moments, momentum: float = 0.9) -> RunningStats:
    """One exponential update: ``momentum * running + (1 - momentum) * batch``.

    The batch's variance enters unbiased (times n / (n - 1)), as in PyTorch.

    Args:
        running: {layer: {"mean", "var"}}.
        moments: of the same layers, with "count" (n) beside mean and biased variance.
        momentum: what is kept.
    """

    def one(old: dict[str, Array], new: dict[str, Array]) -> dict[str, Array]:
        count = new["count"][..., None]
        unbiased = new["var"] * count / jnp.maximum(count - 1, 1)
        target = {"mean": new["mean"], "var": unbiased}
        return jax.tree.map(lambda o, t: momentum * o + (1 - momentum) * t, old, target)

    return {layer: one(running[layer], moments[layer]) for layer in running}
