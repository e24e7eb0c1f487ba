"""DropBlock: dropout of whole squares of a feature map, in training alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mamlpp_jax.types import Array

# The stream of random keys that a backbone is called with where it drops.
STREAM = "drop"


class DropBlock(nn.Module):
    """Drops squares of a feature map where a key of the stream `drop` is given; otherwise it changes nothing.

    Attributes:
        rate: expected share of elements that are dropped, about.
        size: height and width of a square; at most those of the feature map.

    References:
        Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", NeurIPS 2018, algorithm 1.
    """

    rate: float
    size: int = 5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [N, H, W, F]; what is left is scaled up, so that the mean stays."""
        if not self.rate or not self.has_rng(STREAM):
            return x
        size = min(self.size, *x.shape[1:3])
        places = [n - size + 1 for n in x.shape[1:3]]
        # Squares start where they fit; a share `rate` of the map would be covered if none overlapped.
        probability = self.rate * x.shape[1] * x.shape[2] / (size**2 * places[0] * places[1])
        shape = (x.shape[0], *places, x.shape[3])
        starts = jax.random.bernoulli(self.make_rng(STREAM), min(probability, 1.0), shape)
        margin = (size - 1, size - 1)
        dropped = lax.reduce_window(
            starts.astype(x.dtype),
            jnp.zeros((), x.dtype),
            lax.max,
            (1, size, size, 1),
            (1, 1, 1, 1),
            ((0, 0), margin, margin, (0, 0)),
        )
        left = 1 - dropped
        return x * left * (left.size / jnp.maximum(left.sum(), 1))
