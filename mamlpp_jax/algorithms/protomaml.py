"""Proto-MAML: the inner loop starts from a head made of the support set's prototypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mamlpp_jax.algorithms.learner import InitTheta
from mamlpp_jax.models.head import HEAD
from mamlpp_jax.types import Batch, Params


def prototypes(ways: int) -> InitTheta:
    """The `Learner.init_theta` whose head compares squared distances to the classes' mean features.

    Class k with the mean features c_k has the weights ``2 c_k`` and the bias ``-|c_k|^2``, so that the logits are
    ``-|x - c_k|^2 + |x|^2``. No head is learned: any number of ways fits, and classes may have different numbers of
    examples. Meta-gradients reach the body through the prototypes.

    Args:
        ways: K, classes of a task.

    References:
        Triantafillou et al., "Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples", ICLR 2020,
        section 3 (Proto-MAML).

    Example:
        >>> support = maml.Batch(None, jnp.array([0, 1]))
        >>> features = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> maml.prototypes(2)({}, support, lambda params: features)["linear"]["bias"].tolist()
        [-1.0, -4.0]
    """

    def init_theta(params: Params, support: Batch, features: Callable[[Params], Any]) -> Params:
        x = features(params)
        member = jax.nn.one_hot(support.targets, ways, dtype=x.dtype)
        means = member.T @ x / jnp.maximum(member.sum(0), 1)[:, None]
        return {**params, HEAD: {"kernel": 2 * means.T, "bias": -jnp.sum(means**2, -1)}}

    return init_theta
