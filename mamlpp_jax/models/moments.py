"""Means and variances of activations: of a batch, accumulated, blended (TaskNorm), and renormalising.

TaskNorm blends the support set's moments with each image's own. With N support images, ``a = sigmoid(scale * N +
offset)`` weighs the support set's moments (s) against those of one image (i, over its positions alone), as two samples
that are pooled:

    mean = a mean_s + (1 - a) mean_i
    var  = a (var_s + (mean_s - mean)^2) + (1 - a) (var_i + (mean_i - mean)^2)

`scale` and `offset` are learned by the outer loop for every normalised layer (and every inner step where batch norm's
scale and bias are per step). Few support images say little about the moments, and then the image's own help.

Batch renormalisation has the values of running statistics with the derivatives of the batch's own moments. With running
statistics alone the inner loop of MAML breaks down: a support gradient that flows through the batch's moments does not
see the scale of a convolution's weights, and steps of 0.1 stay small; constants in their place let the same steps blow
the activations up. Here the output of batch norm is multiplied and shifted by

    r = sqrt(var_batch + eps) / sqrt(var_running + eps),    d = (mean_batch - mean_running) / sqrt(var_running + eps)

without a derivative through r and d. Training anneals from the batch's moments to the running statistics: ``r ** h``
and ``h * d`` with h from 0 (batch norm) to 1, where the paper loosens limits of r and d.

References:
    Bronskill, Gordon, Requeima, Nowozin, Turner, "TaskNorm: Rethinking batch normalization for meta-learning", ICML
    2020, section 4: TaskNorm-I, which blends with instance normalisation.
    Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models", NIPS 2017,
    section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mamlpp_jax.types import Array, Moments, RunningStats
from mamlpp_jax.utils.trees import entry


def moments(x: Array, axes: tuple[int, ...], *, keepdims: bool = False) -> tuple[Array, Array]:
    """Mean and biased variance over some axes, in one pass over x."""
    mean = jnp.mean(x, axes, keepdims=keepdims)
    # Rounding can push the difference below zero when the mean is large.
    square = jnp.mean(jnp.square(x), axes, keepdims=keepdims)
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


def update_running(running: RunningStats, batch: Moments, momentum: float = 0.9) -> RunningStats:
    """One exponential update of {layer: {"mean", "var"}}: ``momentum * running + (1 - momentum) * batch``.

    The batch's variance enters unbiased (times n / (n - 1), n = "count"), as in PyTorch.
    """

    def one(old: dict[str, Array], new: dict[str, Array]) -> dict[str, Array]:
        count = new["count"][..., None]
        unbiased = new["var"] * count / jnp.maximum(count - 1, 1)
        target = {"mean": new["mean"], "var": unbiased}
        return jax.tree.map(lambda o, t: momentum * o + (1 - momentum) * t, old, target)

    return map_layers(one, running, batch)


def fold_moments(
    running: RunningStats,
    support: Moments,
    query: Moments,
    *,
    per_step: bool,
    momentum: float = 0.9,
) -> RunningStats:
    """Updates the running statistics by one outer step's passes, in the order they happened.

    Entry i takes the support pass and then the query pass of inner step i, leaves [S, F]. Shared statistics, [F], take
    the passes of all steps one after another. Without the multi-step loss only the last step has a query pass, [1, F].
    A backbone without batch norm has none.
    """
    if not jax.tree.leaves(running):
        return running
    steps, queries = (jax.tree.leaves(moments)[0].shape[0] for moments in (support, query))
    entries = []
    for i in range(steps):
        stats = entry(running, i) if per_step else running
        stats = update_running(stats, entry(support, i), momentum)
        if i >= steps - queries:
            stats = update_running(stats, entry(query, i - steps), momentum)
        entries.append(stats)
        running = running if per_step else stats
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *entries) if per_step else running


def map_layers(function: Callable[..., Any], *trees: Any) -> Any:
    """Applies a function to the entries, such as {"mean", "var"}, of every normalised layer."""

    def is_layer(node: Any) -> bool:
        return (
            isinstance(node, Mapping)
            and bool(node)
            and not any(isinstance(entry, Mapping) for entry in node.values())
        )

    return jax.tree.map(function, *trees, is_leaf=is_layer)


def blended_moments(
    blend: Array, x: Array, mean: Array, var: Array, support_images: Array | int
) -> tuple[Array, Array]:
    """Moments that normalise each image of x [M, H, W, F], by a blend [2] of scale and offset.

    Mean and variance are those of N support images, [1, 1, 1, F]; the result's are [M, 1, 1, F].
    """
    weight = jax.nn.sigmoid(blend[0] * support_images + blend[1])
    own_mean, own_var = moments(x, tuple(range(1, x.ndim - 1)), keepdims=True)
    pooled = weight * mean + (1 - weight) * own_mean
    from_support = var + jnp.square(mean - pooled)
    from_image = own_var + jnp.square(own_mean - pooled)
    return pooled, weight * from_support + (1 - weight) * from_image


def renormalise(
    batch: tuple[Array, Array], running: tuple[Array, Array], anneal: Array, epsilon: float
) -> tuple[Array, Array]:
    """The factor and the shift, [..., F], that take x to its renormalised values ``x * factor + shift``.

    `batch` and `running` are mean and variance of x itself and accumulated ones, [..., F]; `anneal` is h.
    """
    (mean, var), (running_mean, running_var) = batch, running
    scale, running_scale = lax.rsqrt(var + epsilon), lax.rsqrt(running_var + epsilon)
    r = lax.stop_gradient((running_scale / scale) ** anneal)
    d = lax.stop_gradient(anneal * (mean - running_mean) * running_scale)
    return scale * r, d - mean * scale * r
