"""The static part of a few-shot learner, which every loop takes as its first argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mamlpp_jax.algorithms.inner_optimizers import InnerOptimizer
from mamlpp_jax.algorithms.metrics import accuracy, cross_entropy
from mamlpp_jax.types import Array, Forward, Params, Split

BN_MODES = ("batch", "running", "support", "tasknorm", "renorm")

# (outputs [N, ...], targets [N, ...]) -> scalar
Loss = Callable[[Array, Array], Array]


def _itself(params: Params) -> Params:
    return params


class Learner(NamedTuple):
    """What does not change while training.

    Attributes:
        forward: the backbone.
        inner_optimizer: adapts a task's parameters.
        inner_steps: S.
        bn_mode: which statistics normalise, one of `BN_MODES`; see `inner_loop.query_pass`.
        per_step_affine: batch-norm scale and bias per inner step (BNWB), or shared.
        per_step_statistics: running statistics per inner step (BNRS), or shared.
        remat: compute inner steps again in the backward pass: for many steps, memory instead of time.
        inner_loss: of the support set, descended by the inner loop.
        query_loss: of the query set, descended by the outer loop.
        metric: of the query set, reported; by default the accuracy.
        split: the backbone in two, for inner loops that adapt its head alone (`fixed_body`); None for whole.
        start: `MetaParams.params` -> theta_0 of a task; by default the same. A head that all classes share becomes one
            with a column per class (`models.head.with_ways`).
    """

    forward: Forward
    inner_optimizer: InnerOptimizer
    inner_steps: int
    bn_mode: str = "batch"
    per_step_affine: bool = True
    per_step_statistics: bool = True
    remat: bool = False
    inner_loss: Loss = cross_entropy
    query_loss: Loss = cross_entropy
    metric: Loss = accuracy
    split: Split | None = None
    start: Callable[[Params], Params] = _itself
