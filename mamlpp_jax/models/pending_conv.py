"""A convolution that waits for what is asked of it."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
from jax import numpy as jnp

from mamlpp_jax.ops.conv import conv2d
from mamlpp_jax.ops.conv_pool import conv_max_pool_2x2, conv_moments
from mamlpp_jax.types import Array

# With fewer channels than this, a convolution is much larger than its images, and moments of patches are cheap.
_FEW_CHANNELS = 16


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["images", "kernel"],
    meta_fields=["kind"],
)
@dataclasses.dataclass(frozen=True)
class PendingConv:
    """A convolution of stride 1 that keeps the size; max pooling and moments do without all of it at once.

    Attributes:
        images: [N, H, W, C].
        kernel: [kh, kw, C, F], of the dtype of the images.
        kind: which convolution (`mamlpp_jax.ops.conv.KINDS`).
    """

    images: Array
    kernel: Array
    kind: str

    @staticmethod
    def pays(channels: int, kind: str, compute_dtype: str) -> bool:
        """Whether to wait: not if factors are rounded, nor if `xla` promises derivatives in every mode."""
        return channels < _FEW_CHANNELS and kind != "xla" and not compute_dtype

    def compute(self) -> Array:
        """The convolution, [N, H, W, F]."""
        return conv2d(self.images, self.kernel, padding=self._padding, kind=self.kind)

    def max_pool(self, sign: Array) -> Array:
        """Its 2x2 max pooling, [N, H // 2, W // 2, F]; sign as in `mamlpp_jax.ops.pool.max_pool_2x2`."""
        return conv_max_pool_2x2(
            self.images, self.kernel, sign, padding=self._padding, kind=self.kind
        )

    def moments(self) -> tuple[Array, Array, Array]:
        """Mean and biased variance, [F], and of how many elements they are."""
        mean, var = conv_moments(self.images, self.kernel, padding=self._padding)
        return mean, var, jnp.asarray(self.images[..., 0].size, mean.dtype)

    @property
    def _padding(self) -> int:
        return self.kernel.shape[0] // 2
