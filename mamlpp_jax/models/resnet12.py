"""ResNet-12, the residual network of the few-shot literature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flax import linen as nn

from mamlpp_jax.models.head import HEAD
from mamlpp_jax.models.layers import Conv, PerStepBatchNorm, check_image_size
from mamlpp_jax.ops.pool import max_pool_2x2
from mamlpp_jax.types import Array

if TYPE_CHECKING:
    from jaxtyping import Float

BLOCKS = 4
NEGATIVE_SLOPE = 0.1
_CUSTOMARY = (64, 160, 320, 640)


def widths(filters: int) -> tuple[int, ...]:
    """Filters of each block: 64-160-320-640 from 64, otherwise doubled block by block (16-32-64-128 from 16)."""
    if filters == _CUSTOMARY[0]:
        return _CUSTOMARY
    return tuple(filters << block for block in range(BLOCKS))


class ResNet12(nn.Module):
    """Four residual blocks, global average pooling, then a linear layer.

    Attributes:
        ways: K, outputs.
        filters: F of the first block; see `widths`.
        conv: implementation of the convolution (`mamlpp_jax.ops.conv.IMPL_NAMES`).
        compute_dtype: as in `Conv4`.
        normalize_features: brings each image's features to mean 0 and variance 1 before the linear layer, so that
            only their direction counts.

    References:
        Oreshkin, Rodriguez, Lacoste, "TADAM", NeurIPS 2018: the blocks; Lee, Maji, Ravichandran, Soatto,
        "Meta-Learning with Differentiable Convex Optimization", CVPR 2019, section 4.1: the widths. Ba, Kiros,
        Hinton, "Layer Normalization", 2016; Wang, Chao, Weinberger, van der Maaten, "SimpleShot", 2019: what centred
        features of length one give.

    Example:
        >>> images = jnp.zeros((5, 84, 84, 3))
        >>> shapes = jax.eval_shape(maml.ResNet12(ways=5, filters=16).init, jax.random.key(0), images)
        >>> shapes["params"]["linear"]["kernel"].shape
        (128, 5)
    """

    ways: int
    filters: int = 64
    conv: str = "auto"
    compute_dtype: str = ""
    normalize_features: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "N H W C"]) -> Float[Array, "N K"]:
        """Returns logits [N, K] of images [N, H, W, C].

        Raises:
            DataError: H or W is below 16.
        """
        check_image_size(images, 2**BLOCKS, "ResNet12")
        x = images
        for block, filters in enumerate(widths(self.filters)):
            x = _Block(filters, self.conv, self.compute_dtype, name=f"block{block}")(x)
        features = x.mean((1, 2))
        if self.normalize_features:
            features = nn.LayerNorm(epsilon=1e-5, use_bias=False, use_scale=False)(features)
        return nn.Dense(
            self.ways, kernel_init=nn.initializers.xavier_uniform(), dtype=x.dtype, name=HEAD
        )(features)


class _Block(nn.Module):
    """Three normalised 3x3 convolutions beside a normalised 1x1 convolution, added, halved by max pooling."""

    filters: int
    conv: str
    compute_dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shortcut = self._normalised("_shortcut", x, window=1)
        for layer in range(3):
            x = self._normalised(str(layer), x)
            if layer < 2:
                x = nn.leaky_relu(x, negative_slope=NEGATIVE_SLOPE)
        # Pooling chooses the same elements before an increasing function, which then has a quarter to do.
        return nn.leaky_relu(max_pool_2x2(x + shortcut), negative_slope=NEGATIVE_SLOPE)

    def _normalised(self, name: str, x: Array, window: int = 3) -> Array:
        convolution = Conv(
            self.filters,
            impl=self.conv,
            compute_dtype=self.compute_dtype,
            window=window,
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            name=f"conv{name}",
        )
        return PerStepBatchNorm(name=f"norm{name}")(*convolution(x))
