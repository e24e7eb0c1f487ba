"""Flax layers of the few-shot backbones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from flax import linen as nn
from jax import lax, numpy as jnp

from mamlpp_jax.errors import DataError
from mamlpp_jax.models.moments import blended_moments, moments, renormalise
from mamlpp_jax.ops.conv import conv2d
from mamlpp_jax.ops.conv_pool import conv_max_pool_2x2, conv_moments, is_faster
from mamlpp_jax.ops.pool import max_pool_2x2
from mamlpp_jax.types import Array

if TYPE_CHECKING:
    from jaxtyping import Float


def check_image_size(images: Array, smallest: int, network: str) -> None:
    """Raises a `DataError` where images [N, H, W, C] are too small for a network that halves them."""
    high, wide = images.shape[1:3]
    if min(high, wide) < smallest:
        raise DataError(
            f"the images have {high} x {wide} pixels; {network} needs at least {smallest} x {smallest}."
        )


class Conv(nn.Module):
    """A convolution, padded so that stride 1 keeps the size, that hands its bias on instead of adding it.

    A bias in front of a normalisation by the batch's own mean cancels exactly; `PerStepBatchNorm`
    takes it as an offset and does only the work that remains.

    Attributes:
        filters: F.
        stride: 1 or 2.
        impl: implementation of the convolution (`mamlpp_jax.ops.conv.IMPL_NAMES`).
        compute_dtype: dtype that the factors of its products are rounded to (`mamlpp_jax.ops.conv.conv2d`).
        window: height and width of the kernel, odd.
        use_bias: False for a bias of zeros that is no parameter.
        kernel_init: initializer of the kernel.

    Example:
        >>> shapes = jax.eval_shape(maml.Conv(filters=8).init, jax.random.key(0), jnp.zeros((1, 28, 28, 3)))
        >>> shapes["params"]["kernel"].shape
        (3, 3, 3, 8)
    """

    filters: int
    stride: int = 1
    impl: str = "auto"
    compute_dtype: str = ""
    window: int = 3
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    def __call__(
        self, x: Float[Array, "N H W C"]
    ) -> tuple[Float[Array, "N h w F"], Float[Array, " F"]]:
        """Returns the convolution without bias, [N, H', W', F], and the bias, [F]."""
        kernel, bias = self.weights(x)
        y = conv2d(
            x,
            kernel,
            stride=self.stride,
            padding=self.window // 2,
            impl=self.impl,
            compute_dtype=self.compute_dtype,
        )
        return y, bias

    @nn.compact
    def weights(self, x: Array) -> tuple[Array, Array]:
        """Returns the kernel for images [N, H, W, C], [window, window, C, F] of their dtype, and the bias, [F]."""
        shape = (self.window, self.window, x.shape[-1], self.filters)
        kernel = self.param("kernel", self.kernel_init, shape)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.filters,))
        else:
            bias = jnp.zeros(self.filters, kernel.dtype)
        return kernel.astype(x.dtype), bias


class PerStepBatchNorm(nn.Module):
    """Batch normalisation of one inner step (BNRS and BNWB, section 4 of the paper).

    The module sees the scale and bias of the inner step it runs in (collection `norm`). Given the collection
    `batch_stats` (mean, var), it normalises with that; without it, with the batch's own moments. Where `norm` has a
    `blend`, each image's own moments are pooled with them (`models.moments`; given statistics then need a count).
    Given statistics with `anneal` renormalise (`models.moments`).
    The caller keeps the entries of all steps, in collections of their own, so that none is mistaken for an adapted
    parameter. The batch's own moments are always left in the collection `moments` (mean, biased var, count); nothing
    is updated here.

    Attributes:
        epsilon: added to the variance.
        max_pool: 2x2 max pooling of the result. Per channel the normalisation is an increasing function
            (a decreasing one where the scale is negative), so pooling comes first: the rest is then
            computed for a quarter of the elements.

    Example:
        >>> shapes = jax.eval_shape(maml.PerStepBatchNorm().init, jax.random.key(0), jnp.zeros((4, 6)))
        >>> shapes["norm"]["scale"].shape
        (6,)
    """

    epsilon: float = 1e-5
    max_pool: bool = False

    def __call__(
        self, x: Float[Array, "N *shape F"], offset: Float[Array, " F"] | None = None
    ) -> Float[Array, "N *pooled F"]:
        """Normalises ``x + offset`` over all axes but the last.

        Args:
            x: [N, H, W, F], or [N, ..., F] without `max_pool`.
            offset: [F], the bias of the convolution before this layer; None for no bias.

        Returns:
            [N, H, W, F], or [N, H // 2, W // 2, F] with `max_pool`.
        """
        offset = jnp.zeros(x.shape[-1], x.dtype) if offset is None else offset
        pool = partial(max_pool_2x2, x) if self.max_pool else lambda sign: x
        return self._normalise(x, moments(x, tuple(range(x.ndim - 1))), pool, offset)

    def convolved(self, conv: Conv, images: Array) -> Array:
        """Returns ``self(*conv(images))`` of images [N, H, W, C].

        Where it is faster, a max-pooled convolution is computed block by block (`ops.conv_pool`) and never whole.
        """
        # TaskNorm needs each image's moments, too.
        defer = (
            (self.max_pool and conv.stride == 1)
            and not self.has_variable("norm", "blend")
            and is_faster(images.shape[-1], conv.impl, conv.compute_dtype)
        )
        if not defer:
            return self(*conv(images))
        kernel, bias = conv.weights(images)
        padding = conv.window // 2
        pool = partial(conv_max_pool_2x2, images, kernel, padding=padding, impl=conv.impl)
        return self._normalise(images, conv_moments(images, kernel, padding=padding), pool, bias)

    @nn.compact
    def _normalise(
        self, x: Array, own: tuple[Array, Array], pool: Callable[[Array], Array], offset: Array
    ) -> Array:
        """Pools and normalises ``x + offset``; of a deferred convolution, x are the images.

        `own` are mean and variance before pooling; `pool` makes pooled x of the signs of the scale.
        """
        shape = offset.shape
        scale = self.variable("norm", "scale", jnp.ones, shape, offset.dtype).value
        bias = self.variable("norm", "bias", jnp.zeros, shape, offset.dtype).value
        blend: Array | None = self.get_variable("norm", "blend")
        mean, var = own
        count = jnp.asarray(x.size // x.shape[-1], mean.dtype)
        self._leave("mean", mean + offset)
        self._leave("var", var)
        self._leave("count", count)
        if self.is_initializing() or self.has_variable("batch_stats", "mean"):
            given = self.variable("batch_stats", "mean", jnp.zeros, shape, offset.dtype)
            mean = given.value - offset
            var = self.variable("batch_stats", "var", jnp.ones, shape, offset.dtype).value
        sign = jnp.where(scale < 0, -1, 1)
        # [1, ..., F], so that nothing below changes its rank.
        mean, var, scale, bias, own_mean, own_var = (
            leaf.reshape((1,) * (x.ndim - 1) + shape) for leaf in (mean, var, scale, bias, *own)
        )
        if blend is not None:
            # Each image has equally many elements.
            elements = self.get_variable("batch_stats", "count", count)
            support_images = elements / (count / x.shape[0])
            mean, var = blended_moments(blend, x, mean, var, support_images)
        y = pool(sign)
        if self.has_variable("batch_stats", "anneal"):
            anneal: Array = self.get_variable("batch_stats", "anneal")
            factor, shift = renormalise((own_mean, own_var), (mean, var), anneal, self.epsilon)
            return y * (scale * factor) + (bias + scale * shift)
        factor = scale * lax.rsqrt(var + self.epsilon)
        return y * factor + (bias - mean * factor)

    def _leave(self, name: str, value: Array) -> None:
        self.sow("moments", name, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)
