"""The pytrees that travel through the program, and the one legend of dimension letters.

    B   tasks of a meta-batch (or of a chunk of it)
    S   inner steps
    N   support images of a task, way x shot
    M   query images of a task, way x query
    H W C   image height, width, channels
    K   ways (classes of a task)
    F   filters (channels) of a convolution

Shapes in docstrings use these letters; a leading B or S is added by ``vmap`` or ``scan``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
Params = Any  # pytree of arrays
NormParams = Any  # pytree of batch-norm scale and bias: [S, F] leaves, [F] when shared
Moments = Any  # pytree {layer: {"mean": [F], "var": [F], "count": []}}
RunningStats = Any  # pytree {layer: {"mean": [S, F], "var": [S, F]}}, [F] when shared


class Episode(NamedTuple):
    """One task: what the inner loop learns from and what it is judged on.

    Attributes:
        support_images: float [N, H, W, C].
        support_labels: int32 [N], 0..K-1.
        query_images: float [M, H, W, C] (the paper's "target set").
        query_labels: int32 [M], 0..K-1.
    """

    support_images: Array
    support_labels: Array
    query_images: Array
    query_labels: Array


class MetaParams(NamedTuple):
    """Everything the outer loop learns.

    Attributes:
        params: the initialisation theta_0, adapted by the inner loop.
        norm: batch-norm scale and bias, [S, F] per step or [F] shared; never adapted.
        inner: what the inner optimizer learns, leaves [S, ...]; empty for plain SGD.
    """

    params: Params
    norm: NormParams
    inner: Any


class MetaState(NamedTuple):
    """The whole state of training; what a checkpoint holds.

    Attributes:
        step: int32 [], outer steps taken.
        params: see `MetaParams`.
        norm: see `MetaParams`.
        inner: see `MetaParams`.
        batch_stats: running mean and variance, [S, F] per step or [F] shared.
        opt_state: state of the outer optax optimizer over `MetaParams`.
    """

    step: Array
    params: Params
    norm: NormParams
    inner: Any
    batch_stats: RunningStats
    opt_state: Any

    @property
    def meta(self) -> MetaParams:
        """The part that the outer optimizer updates."""
        return MetaParams(self.params, self.norm, self.inner)


class Forward(Protocol):
    """A backbone as a pure function; `mamlpp_jax.models.make_forward` makes one."""

    def __call__(
        self, params: Params, norm: NormParams, images: Array, statistics: Moments | None = None
    ) -> tuple[Array, Moments]:
        """Returns logits [N, K] and the moments of this batch, per normalised layer.

        Args:
            params: weights of one task.
            norm: one row of batch-norm scale and bias, leaves [F].
            images: [N, H, W, C].
            statistics: mean and variance to normalise with, leaves [F]; None for this batch's own.
        """


# Draws the tasks with the given global indices (int32 [B]) of one outer step.
DrawTasks = Callable[[Any, Array, Array], Episode]
