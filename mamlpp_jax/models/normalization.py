"""Batch norm beyond the batch's own moments: TaskNorm's blend, and batch renormalisation.

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

import jax
import jax.numpy as jnp
from jax import lax

from mamlpp_jax.models.moments import moments
from mamlpp_jax.types import Array


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
