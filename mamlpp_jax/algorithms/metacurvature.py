"""Meta-Curvature: an inner optimizer whose gradients pass through learned matrices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mamlpp_jax.algorithms.inner_optimizers import InnerOptimizer
from mamlpp_jax.models.head import HEAD
from mamlpp_jax.types import Array, Params


def metacurvature(learning_rate: float, *, per_step: bool = False) -> InnerOptimizer:
    """Gradient descent along ``G x_1 M_1 x_2 M_2 ...``: a learned matrix multiplies each axis of a gradient.

    A convolution's gradient [h, w, C, F] has three axes: the h * w elements of the window, inputs and outputs. A vector
    has a factor per element. The classes of a task come in any order, so the head's outputs are not mixed. Every matrix
    starts as the identity, where this is gradient descent.

    Args:
        learning_rate: the fixed rate that the matrices come on top of.
        per_step: matrices of their own for every inner step; otherwise all steps share them, as published.

    References:
        Park, Oliva, "Meta-Curvature", NeurIPS 2019, section 3.2. The published matrix over the head's outputs is
        left out.

    Example:
        >>> learned = maml.metacurvature(0.1).init({"conv": jnp.zeros((3, 3, 4, 8))}, 5)
        >>> [leaf.shape for leaf in jax.tree.leaves(learned)]
        [(1, 9, 9), (1, 4, 4), (1, 8, 8)]
    """

    def init(params: Params, num_steps: int) -> Any:
        entries = num_steps if per_step else 1

        def identity(path: Any, leaf: Array) -> Any:
            shape = _matrix_axes(leaf).shape
            if len(shape) == 1:
                return jnp.ones((entries, *shape), leaf.dtype)
            in_head = HEAD in [getattr(key, "key", None) for key in path]
            mixed = shape[:-1] if in_head else shape
            return [jnp.tile(jnp.eye(size, dtype=leaf.dtype), (entries, 1, 1)) for size in mixed]

        return jax.tree_util.tree_map_with_path(identity, params)

    def transform(learned: Any) -> optax.GradientTransformation:
        def descend(updates: Any, _: Params | None) -> Any:
            return jax.tree.map(
                lambda g, curve: -learning_rate * _curved(g, curve), updates, learned
            )

        return optax.stateless(descend)

    return InnerOptimizer(init, transform, rates=lambda learned: {})


def _matrix_axes(gradient: Array) -> Array:
    """A tensor with the elements of a window, where it has one, along a single axis."""
    if gradient.ndim <= 2:
        return gradient
    return gradient.reshape(-1, *gradient.shape[-2:])


def _curved(gradient: Array, curve: Any) -> Array:
    """The gradient times the matrix of each axis, or times the factor of each element."""
    if not isinstance(curve, list):
        return gradient * curve
    result = _matrix_axes(gradient)
    for axis, matrix in enumerate(curve):
        result = jnp.moveaxis(jnp.tensordot(matrix, result, axes=(1, axis)), 0, axis)
    return result.reshape(gradient.shape)
