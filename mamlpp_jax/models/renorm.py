"""Batch renormalisation: the values of running statistics with the derivatives of the batch's own moments.

With running statistics alone the inner loop of MAML breaks down. A support gradient that flows through the batch's
moments does not see the scale of a convolution's weights, and steps of 0.1 stay small; constants in their place let
the same steps blow the activations up. Batch renormalisation multiplies and shifts what batch norm returns by

    r = sqrt(var_batch + eps) / sqrt(var_running + eps),    d = (mean_batch - mean_running) / sqrt(var_running + eps)

without a derivative through r and d. Training hands over from the batch's moments to the running statistics:
``r ** h`` and ``h * d`` with h from 0 (batch norm) to 1, where the paper loosens limits of r and d. At h = 1 each
prediction is made alone.

References:
    Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models", NIPS 2017,
    section 3.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from mamlpp_jax.models.moments import map_layers
from mamlpp_jax.types import Array, Moments, RunningStats

# Beside a layer's running mean and variance: how far to go towards them, h.
HAND_OVER = "hand_over"


def with_hand_over(stats: RunningStats, hand_over: Array | float) -> Moments:
    """Asks for renormalisation in the place of normalisation.

    Args:
        stats: leaves [S, F].
        hand_over: h, a scalar; the same in every layer and step.
    """

    def mark(layer: dict[str, Array]) -> dict[str, Array]:
        mean = layer["mean"]
        return {
            **layer,
            HAND_OVER: jnp.broadcast_to(jnp.asarray(hand_over, mean.dtype), mean.shape[:-1]),
        }

    return map_layers(mark, stats)


def renormalise(
    batch: tuple[Array, Array], running: tuple[Array, Array], hand_over: Array, epsilon: float
) -> tuple[Array, Array]:
    """The factor and the shift that take x to its renormalised values.

    Args:
        batch: mean and variance of x itself, [F].
        running: accumulated mean and variance, [F].
        hand_over: h, [].
        epsilon: added to both variances.

    Returns:
        Two arrays [F]; ``x * factor + shift`` is the result.
    """
    (mean, var), (running_mean, running_var) = batch, running
    scale, running_scale = lax.rsqrt(var + epsilon), lax.rsqrt(running_var + epsilon)
    r = lax.stop_gradient((running_scale / scale) ** hand_over)
    d = lax.stop_gradient(hand_over * (mean - running_mean) * running_scale)
    return scale * r, d - mean * scale * r
