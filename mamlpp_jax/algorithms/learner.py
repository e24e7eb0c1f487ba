"""The static part of a few-shot learner, which every loop takes as its first argument."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from mamlpp_jax.algorithms.inner_loop import default_unroll
from mamlpp_jax.algorithms.inner_optimizers import InnerOptimizer
from mamlpp_jax.algorithms.losses import InnerLoss, Loss, accuracy, cross_entropy
from mamlpp_jax.statistics import BATCH, Statistics, find_statistics
from mamlpp_jax.types import Batch, BodyAndHead, Forward, Params

# (params, support set, params -> features [N, D] of the support set at the first inner step) -> theta_0
InitTheta = Callable[[Params, Batch, Callable[[Params], Any]], Params]


def same_for_every_task(
    params: Params, support: Batch, features: Callable[[Params], Any]
) -> Params:
    """The usual theta_0: the meta-learned parameters themselves."""
    return params


def learned_theta(ways: int) -> InitTheta:
    """The usual start of the inner loop, of any number of ways; see `same_for_every_task`."""
    del ways
    return same_for_every_task


@dataclasses.dataclass(frozen=True)
class Learner:
    """The part of a few-shot learner that does not change while training.

    Attributes:
        forward: the backbone.
        inner_optimizer: adapts a task's parameters.
        inner_steps: S.
        statistics: the mode of batch-norm statistics, a record or its name (`mamlpp_jax.statistics`).
        per_step_affine: batch-norm scale and bias per inner step (BNWB), or shared.
        per_step_statistics: running statistics per inner step (BNRS), or shared.
        running_decay: what running statistics keep of themselves at each update; 1 leaves them as they are.
        inner_loss: of the support set, descended by the inner loop.
        query_loss: of the query set, descended by the outer loop.
        metric: of the query set, reported; by default the accuracy.
        body_and_head: the backbone in two, for inner loops that adapt its head alone and for theta_0 made of
            features; None for whole.
        init_theta: theta_0 of a task, of `MetaParams.params` and perhaps the support set.
        unroll: inner steps per iteration of the compiled loop, see `inner_loop.default_unroll`. A rolled loop stacks
            what the backward pass needs; unrolled, those copies go away (a quarter of the time on a CPU) for twice the
            compile time.
        remat: compute inner steps again in the backward pass: for many steps, memory instead of time.

    Raises:
        ConfigError: there are no statistics of that name.
        ValueError: there is less than one inner step.

    Example:
        >>> maml.Learner(maml.make_forward(maml.Conv4(ways=5)), maml.lslr(0.1), inner_steps=5).mode.name
        'batch'
    """

    forward: Forward
    inner_optimizer: InnerOptimizer
    inner_steps: int
    statistics: Statistics | str = BATCH
    per_step_affine: bool = True
    per_step_statistics: bool = True
    running_decay: float = 0.9
    inner_loss: Loss | InnerLoss = cross_entropy
    query_loss: Loss = cross_entropy
    metric: Loss = accuracy
    body_and_head: BodyAndHead | None = None
    init_theta: InitTheta = same_for_every_task
    unroll: int = dataclasses.field(default_factory=default_unroll)
    remat: bool = False

    def __post_init__(self) -> None:
        find_statistics(self.statistics, "Learner.statistics")
        if self.inner_steps < 1:
            raise ValueError(f"Learner.inner_steps is {self.inner_steps}; it must be 1 or more.")

    @property
    def mode(self) -> Statistics:
        """The record of `statistics`."""
        return find_statistics(self.statistics)
