"""The four-block convolutional network of the MAML literature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flax import linen as nn

from mamlpp_jax.models.head import HEAD
from mamlpp_jax.models.layers import Conv, PerStepBatchNorm, check_image_size
from mamlpp_jax.types import Array

if TYPE_CHECKING:
    from jaxtyping import Float

BLOCKS = 4
NEGATIVE_SLOPE = 0.01


class Conv4(nn.Module):
    """Four blocks of convolution, batch norm, leaky ReLU and halving, then a linear layer.

    Attributes:
        ways: K, outputs.
        filters: F of every block.
        max_pool: 2x2 max pooling; False for the "strided" network of the paper's Figure 1, which
            halves by stride-2 convolutions and ends in global average pooling.
        conv: implementation of the convolution (`mamlpp_jax.ops.conv.IMPL_NAMES`).
        compute_dtype: "bfloat16" rounds the factors of the convolutions' products; everything else
            (parameters, sums, activations, statistics) keeps the dtype of the images.

    Example:
        >>> images = jnp.zeros((5, 28, 28, 1))
        >>> shapes = jax.eval_shape(maml.Conv4(ways=5).init, jax.random.key(0), images)
        >>> shapes["params"]["linear"]["kernel"].shape
        (64, 5)
    """

    ways: int
    filters: int = 64
    max_pool: bool = True
    conv: str = "auto"
    compute_dtype: str = ""

    @nn.compact
    def __call__(self, images: Float[Array, "N H W C"]) -> Float[Array, "N K"]:
        """Returns logits [N, K] of images [N, H, W, C].

        Raises:
            DataError: with `max_pool`, H or W is below 16.
        """
        check_image_size(images, 2**BLOCKS if self.max_pool else 1, "Conv4 with max_pool")
        x = images
        for block in range(BLOCKS):
            stride = 1 if self.max_pool else 2
            conv = Conv(self.filters, stride, self.conv, self.compute_dtype, name=f"conv{block}")
            norm = PerStepBatchNorm(max_pool=self.max_pool, name=f"norm{block}")
            x = self.modulate(block, norm.convolved(conv, x))
            x = nn.leaky_relu(x, negative_slope=NEGATIVE_SLOPE)
        x = x.reshape(x.shape[0], -1) if self.max_pool else x.mean((1, 2))
        # Dense promotes float32 parameters; the network computes in the dtype of its input.
        return nn.Dense(
            self.ways, kernel_init=nn.initializers.xavier_uniform(), dtype=x.dtype, name=HEAD
        )(x)

    def modulate(self, block: int, x: Float[Array, "N H W F"]) -> Float[Array, "N H W F"]:
        """Returns what the activation of a block gets of its normalised features [N, H, W, F]: these themselves."""
        return x
