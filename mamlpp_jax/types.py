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

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
Params = Any  # pytree of arrays
NormParams = Any  # pytree of batch-norm scale and bias: [S, F] leaves, [F] when shared; with TaskNorm a blend, [S, 2]
Moments = Any  # pytree {layer: {"mean": [F], "var": [F], "count": []}}
RunningStats = Any  # pytree {layer: {"mean": [S, F], "var": [S, F]}}, [F] when shared


class Episode(NamedTuple):
    """One task: what the inner loop learns from and what it is judged on.

    Attributes:
        support_images: float [N, H, W, C].
        support_labels: int32 [N], 0..K-1; any targets with a leading N for another loss.
        query_images: float [M, H, W, C] (the paper's "target set").
        query_labels: int32 [M], 0..K-1, or targets with a leading M.
        key: random key of the task, for a backbone that drops units; None to drop nothing.
    """

    support_images: Array
    support_labels: Array
    query_images: Array
    query_labels: Array
    key: Array | None = None


class MetaParams(NamedTuple):
    """Everything the outer loop learns.

    Attributes:
        params: the initialisation theta_0, adapted by the inner loop.
        norm: batch-norm scale and bias, [S, F] per step or [F] shared, and with TaskNorm a blend, [S, 2] or [2];
            never adapted.
        inner: what the inner optimizer learns, leaves [S, ...], or [1, ...] where all steps share an entry; empty for
            plain SGD.
    """

    params: Params
    norm: NormParams
    inner: Any


class MetaState(NamedTuple):
    """The whole state of training; what a checkpoint holds.

    Attributes:
        step: int32 [], outer steps taken.
        meta: what the outer optimizer updates.
        batch_stats: running mean and variance, [S, F] per step or [F] shared.
        opt_state: state of the outer optax optimizer over `meta`.
    """

    step: Array
    meta: MetaParams
    batch_stats: RunningStats
    opt_state: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepPlan:
    """What an outer step computes; a pytree whose floats are traced and whose rest is static.

    Attributes:
        weights: float [S], of the query losses after each inner step; read only when `multi_step`.
        order: 2 differentiates through the inner updates; 1 stops gradients at the support gradient
            (first-order MAML; rates and normalisation still learn from the query loss).
        multi_step: whether the query loss after every inner step counts, or only the last one.
        hand_over: float [], 0..1, traced: how far the statistics mode `renorm` has gone from the batch's own moments
            to the running statistics; read in that mode only.
    """

    weights: Array | None = None
    order: int = dataclasses.field(default=2, metadata={"static": True})
    multi_step: bool = dataclasses.field(default=False, metadata={"static": True})
    hand_over: Array | float = 1.0


class Forward(Protocol):
    """A backbone as a pure function; `mamlpp_jax.models.make_forward` makes one."""

    def __call__(
        self,
        params: Params,
        norm: NormParams,
        images: Array,
        bn_stats: Moments | None = None,
        key: Array | None = None,
    ) -> tuple[Array, Moments]:
        """Returns outputs (logits [N, K]) and the moments of this batch, per normalised layer.

        Args:
            params: weights of one task.
            norm: batch-norm scale and bias of one inner step, leaves [F].
            images: [N, H, W, C].
            bn_stats: mean and variance to normalise with, leaves [F]; None for this batch's own.
            key: of what is dropped; None for nothing. Given only where an episode has a key.
        """


class Split(NamedTuple):
    """A backbone as two functions; `mamlpp_jax.models.make_split` makes one.

    Attributes:
        body: a `Forward` whose outputs are features, [N, D].
        head: (params, features [N, D]) -> outputs, [N, K].
    """

    body: Forward
    head: Callable[[Params, Array], Array]


# Samples the tasks with the given global indices (int32 [B]) of one outer step from a source.
SampleTasks = Callable[[Any, Array, Array], Episode]
