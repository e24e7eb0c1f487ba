"""Batch renormalisation: the values of running statistics with the derivatives of the batch's own moments.

With running statistics alone the inner loop of MAML breaks down. A support gradient that flows through the batch's
moments does not see the scale of a convolution's weights, and steps of 0.1 stay small; constants in their place let
the same steps blow the activations up. Batch renormalisation multiplies and shifts what batch norm returns by

    r = sqrt(var_batch + eps) / sqrt(var_running + eps),    d = (mean_batch - mean_running) / sqrt(var_running + eps)

without a derivative through r and d. Training anneals from the batch's moments to the running statistics:
``r ** h`` and ``h * d`` with h from 0 (batch norm) to 1, where the paper loosens limits of r and d. At h = 1 each
prediction is made alone.

References:
    Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models", NIPS 2017,
    section 3.
"""

from __future__ import annotations

from jax import lax

from mamlpp_jax.types import Array


def renormalise(
    batch: tuple[Array, Array], running: tuple[Array, Array], anneal: Array, epsilon: float
) -> tuple[Array, Array]:
    """The factor and the shift that take x to its renormalised values.

    Args:
        batch: mean and variance of x itself, [..., F].
        running: accumulated mean and variance, [..., F].
        anneal: h, [].
        epsilon: added to both variances.

    Returns:
        Two arrays [..., F]; ``x * factor + shift`` is the result.
    """
    (mean, var), (running_mean, running_var) = batch, running
    scale, running_scale = lax.rsqrt(var + epsilon), lax.rsqrt(running_var + epsilon)
    r = lax.stop_gradient((running_scale / scale) ** anneal)
    d = lax.stop_gradient(anneal * (mean - running_mean) * running_scale)
    return scale * r, d - mean * scale * r
