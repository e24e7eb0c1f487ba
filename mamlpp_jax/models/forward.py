"""From a Flax module to the pure function the loops call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from mamlpp_jax.models.drop_block import STREAM
from mamlpp_jax.models.head import HEAD
from mamlpp_jax.types import Array, Forward, Moments, NormParams, Params, RunningStats, Split


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
        params: Params,
        norm: NormParams,
        images: Array,
        bn_stats: Moments | None = None,
        key: Array | None = None,
    ) -> tuple[Array, Moments]:
        variables = {"params": params, "norm": norm}
        if bn_stats is not None:
            variables["batch_stats"] = bn_stats
        rngs = None if key is None else {STREAM: key}
        outputs, left = module.apply(variables, images, mutable=["moments"], rngs=rngs)
        return outputs, left.get("moments", {})

    return forward


def make_split(module: nn.Module) -> Split:
    """Splits a backbone before its head.

    Args:
        module: a backbone whose last layer is an `nn.Dense` with the name `linear`.
    """
    forward = make_forward(module)

    def skip_head(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        is_head = context.module.path == (HEAD,) and context.method_name == "__call__"
        return args[0] if is_head else call(*args, **kwargs)

    def body(
        params: Params,
        norm: NormParams,
        images: Array,
        bn_stats: Moments | None = None,
        key: Array | None = None,
    ) -> tuple[Array, Moments]:
        with nn.intercept_methods(skip_head):
            return forward(params, norm, images, bn_stats, key)

    def head(params: Params, features: Array) -> Array:
        outputs = params[HEAD]["kernel"].shape[-1]
        return nn.Dense(outputs, dtype=features.dtype).apply({"params": params[HEAD]}, features)

    return Split(body, head)
