"""The pytrees that travel through the program, and the one legend of dimension letters.

    B   tasks of a meta-batch (or of a chunk of it)
    S   inner steps
    N   support examples of a task, way x shot
    M   query examples of a task, way x query
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


class Batch(NamedTuple):
    """Inputs and their targets: any pytrees, such as images, tokens, or a series with its mask.

    Attributes:
        inputs: leaves with a leading N (support) or M (query); images are float [N, H, W, C].
        targets: leaves with the same leading axis; labels are int32 [N], 0..K-1.

    Example:
        >>> maml.Batch(jnp.zeros((5, 28, 28, 1)), jnp.arange(5)).inputs.shape
        (5, 28, 28, 1)
    """

    inputs: Any
    targets: Any


class Episode(NamedTuple):
    """One task: what the inner loop learns from and what it is judged on.

    Attributes:
        support: N examples.
        query: M examples (the paper's "target set").
        key: random key of the task, for a backbone that draws random numbers in training; None to draw none.

    Example:
        >>> episode.support.inputs.shape, episode.query.targets.tolist()
        ((3, 4), [0, 1, 2])
    """

    support: Batch
    query: Batch
    key: Array | None = None


class MetaParams(NamedTuple):
    """Everything the outer loop learns.

    Attributes:
        params: the initialisation theta_0, adapted by the inner loop.
        norm: batch-norm scale and bias, [S, F] per step or [F] shared, and with TaskNorm a blend, [S, 2] or [2];
            never adapted.
        inner: what the inner optimizer learns, leaves [S, ...], or [1, ...] where all steps share an entry; empty for
            plain SGD.
        inner_loss: what an `InnerLoss` learns, leaves as of `inner`; empty for a fixed loss.

    Example:
        >>> jax.tree.map(jnp.shape, state.meta.inner)
        {'bias': (2,), 'kernel': (2,)}
    """

    params: Params
    norm: NormParams
    inner: Any
    inner_loss: Any = {}  # noqa: RUF012 (never changed)


class MetaState(NamedTuple):
    """The whole state of training; what a checkpoint holds.

    Attributes:
        step: int32 [], outer steps taken.
        meta: what the outer optimizer updates.
        batch_stats: running mean and variance, [S, F] per step or [F] shared.
        opt_state: state of the outer optax optimizer over `meta`.

    Example:
        >>> int(state.step), state.meta.params["kernel"].shape
        (0, (4, 3))
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
        anneal: float [], 0..1, traced: how far annealed statistics have gone from the batch's own moments
            to the running ones; read in such modes only.

    Raises:
        ValueError: the order is neither 1 nor 2, or `multi_step` comes without weights.

    Example:
        >>> maml.StepPlan(weights=jnp.array([0.5, 0.5]), order=1, multi_step=True).order
        1
    """

    weights: Array | None = None
    order: int = dataclasses.field(default=2, metadata={"static": True})
    multi_step: bool = dataclasses.field(default=False, metadata={"static": True})
    anneal: Array | float = 1.0

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"StepPlan.order is {self.order!r}; it must be 1 or 2.")
        if self.multi_step and self.weights is None:
            raise ValueError(
                "StepPlan.multi_step is True, but weights is None; give a weight for the query loss after each inner "
                "step, such as schedules.multi_step_weights(epoch, inner_steps, multi_step_epochs)."
            )


class ModelVariables(NamedTuple):
    """A fresh backbone, for one inner step.

    Attributes:
        params: weights.
        norm: batch-norm scale (1) and bias (0), leaves [F]; empty without batch norm.
        batch_stats: running mean (0) and variance (1), leaves [F]; empty without batch norm.

    Example:
        >>> maml.ModelVariables({"w": jnp.zeros((4, 2))}).norm  # a network without batch norm
        {}
    """

    params: Params
    norm: NormParams = {}  # noqa: RUF012 (never changed)
    batch_stats: RunningStats = {}  # noqa: RUF012


class Forward(Protocol):
    """A backbone as a pure function; `mamlpp_jax.models.make_forward` makes one of a Flax module."""

    def __call__(
        self,
        params: Params,
        norm: NormParams,
        inputs: Any,
        bn_stats: Moments | None = None,
        key: Array | None = None,
    ) -> tuple[Any, Moments]:
        """Returns outputs (logits [N, K], or any pytree) and the moments of this batch, per normalised layer.

        Args:
            params: weights of one task.
            norm: batch-norm scale and bias of one inner step, leaves [F].
            inputs: leaves with a leading N.
            bn_stats: mean and variance to normalise with, leaves [F]; None for this batch's own.
            key: random key of the pass; None where nothing is drawn, as in every evaluation.
        """


class BodyAndHead(NamedTuple):
    """A backbone as two functions; `mamlpp_jax.models.make_body_and_head` makes one.

    Attributes:
        body: a `Forward` whose outputs are features, [N, D].
        head: (params, features [N, D]) -> outputs, [N, K].
        in_head: path of a tensor, such as "linear/kernel" -> whether it belongs to the head.

    Example:
        >>> maml.make_body_and_head(maml.Conv4(ways=5)).in_head("linear/kernel")
        True
    """

    body: Forward
    head: Callable[[Params, Any], Any]
    in_head: Callable[[str], bool]


# Samples the tasks with the given global indices (int32 [B]) of one outer step from a source.
SampleTasks = Callable[[Any, Array, Array], Episode]
