"""From a Flax module to the pure function the loops call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mamlpp_jax.types import Array, Forward, Moments, NormParams, Params, RunningStats


class ModelVariables(NamedTuple):
    """A fresh backbone, for one inner step.

    Attributes:
        params: weights.
        norm: batch-norm scale (1) and bias (0), leaves [F]; empty without batch norm.
        batch_stats: running mean (0) and variance (1), leaves [F]; empty without batch norm.
    """

    params: Params
    norm: NormParams
    batch_stats: RunningStats


def init_model(module: nn.Module, key: Array, image_shape: tuple[int, ...]) -> ModelVariables:
    """Samples the weights of a backbone.

    Args:
        module: any Flax module from images to outputs. Its batch norm, if it has one, is `PerStepBatchNorm`,
            at any depth and in any number.
        key: a JAX random key.
        image_shape: (H, W, C), or the shape of one input of another kind.
    """
    variables = module.init(key, jnp.zeros((1, *image_shape)))
    return ModelVariables(
        variables["params"], variables.get("norm", {}), variables.get("batch_stats", {})
    )


def make_forward(module: nn.Module) -> Forward:
    """Wraps a backbone as `mamlpp_jax.types.Forward`."""

    def forward(
        params: Params, norm: NormParams, images: Array, bn_stats: Moments | None = None
    ) -> tuple[Array, Moments]:
        variables = {"params": params, "norm": norm}
        if bn_stats is not None:
            variables["batch_stats"] = _map_layers(
                lambda layer: {"mean": layer["mean"], "var": layer["var"]}, bn_stats
            )
        outputs, left = module.apply(variables, images, mutable=["moments"])
        return outputs, left.get("moments", {})

    return forward


def update_running(running: RunningStats, moments: Moments, momentum: float = 0.9) -> RunningStats:
    """One exponential update: ``momentum * running + (1 - momentum) * batch``.

    The batch's variance enters unbiased (times n / (n - 1)), as in PyTorch.

    Args:
        running: {layer: {"mean", "var"}}, layers nested as in the backbone.
        moments: of the same layers, with "count" (n) beside mean and biased variance.
        momentum: what is kept.
    """

    def one(old: dict[str, Array], new: dict[str, Array]) -> dict[str, Array]:
        count = new["count"][..., None]
        unbiased = new["var"] * count / jnp.maximum(count - 1, 1)
        target = {"mean": new["mean"], "var": unbiased}
        return jax.tree.map(lambda o, t: momentum * o + (1 - momentum) * t, old, target)

    return _map_layers(one, running, moments)


def _map_layers(function: Callable[..., Any], *trees: Any) -> Any:
    """Applies a function to the {"mean", "var", ...} of every normalised layer."""

    def is_layer(node: Any) -> bool:
        return isinstance(node, Mapping) and not isinstance(node.get("mean", {}), Mapping)

    return jax.tree.map(function, *trees, is_leaf=is_layer)
