"""TaskNorm: batch norm by a blend of the support set's moments and each image's own.

With N support images, ``a = sigmoid(scale * N + offset)`` weighs the support set's moments (s) against those of one
image (i, over its positions alone), as two samples that are pooled:

    mean = a mean_s + (1 - a) mean_i
    var  = a (var_s + (mean_s - mean)^2) + (1 - a) (var_i + (mean_i - mean)^2)

`scale` and `offset` are learned by the outer loop for every normalised layer (and every inner step where batch
norm's scale and bias are per step). Few support images say little about the moments, and then the image's own help.
Neither depends on other query images.

References:
    Bronskill, Gordon, Requeima, Nowozin, Turner, "TaskNorm: Rethinking batch normalization for meta-learning", ICML
    2020, section 4: TaskNorm-I, which blends with instance normalisation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamlpp_jax.models.moments import moments
from mamlpp_jax.types import Array


def blended_moments(
    blend: Array, x: Array, mean: Array, var: Array, support_images: Array | int
) -> tuple[Array, Array]:
    """Moments that normalise each image of x.

    Args:
        blend: [2], scale and offset.
        x: [M, H, W, F].
        mean: [1, 1, 1, F], of the support set.
        var: [1, 1, 1, F], of the support set.
        support_images: N.

    Returns:
        Mean and variance, [M, 1, 1, F].
    """
    weight = jax.nn.sigmoid(blend[0] * support_images + blend[1])
    own_mean, own_var = moments(x, tuple(range(1, x.ndim - 1)), keepdims=True)
    pooled = weight * mean + (1 - weight) * own_mean
    from_support = var + jnp.square(mean - pooled)
    from_image = own_var + jnp.square(own_mean - pooled)
    return pooled, weight * from_support + (1 - weight) * from_image
