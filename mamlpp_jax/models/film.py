"""Conv4 with context parameters, for inner loops that adapt these alone (CAVIA)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flax import linen as nn
from jax import numpy as jnp

from mamlpp_jax.models.conv4 import Conv4
from mamlpp_jax.types import Array

if TYPE_CHECKING:
    from jaxtyping import Float

CONTEXT = "context"
_BLOCK = 2  # the third, as published


class FilmConv4(Conv4):
    """Conv4 whose third block is scaled and shifted by a linear function of a context vector (FiLM).

    The vector starts at 0, where this is Conv4; with ``inner.adapts`` ``context`` it is all that an inner step
    changes, and what a task has taught is these numbers.

    Attributes:
        context: numbers in the context vector.

    References:
        Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson, "Fast Context Adaptation via Meta-Learning", ICML 2019; where the
        inner loop starts is learned here.

    Example:
        >>> images = jnp.zeros((5, 28, 28, 1))
        >>> shapes = jax.eval_shape(maml.FilmConv4(ways=5).init, jax.random.key(0), images)
        >>> shapes["params"]["context"].shape
        (100,)
    """

    context: int = 100

    def modulate(self, block: int, x: Float[Array, "N H W F"]) -> Float[Array, "N H W F"]:
        """Returns the normalised features of a block [N, H, W, F], those of the third one modulated."""
        if block != _BLOCK:
            return x
        context = self.param(CONTEXT, nn.initializers.zeros_init(), (self.context,))
        film = nn.Dense(2 * x.shape[-1], use_bias=False, dtype=x.dtype, name="film")
        factor, shift = jnp.split(film(context.astype(x.dtype)).reshape(1, 1, 1, -1), 2, axis=-1)
        return x * (1 + factor) + shift
