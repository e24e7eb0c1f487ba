"""Losses and metrics of one task, and inner losses of which the outer loop may learn a part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mamlpp_jax.types import Array, Batch, Params

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# (outputs, leaves [N, ...]; targets, leaves [N, ...]) -> scalar
Loss = Callable[[Any, Any], Array]


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Mean softmax cross-entropy of logits [N, K] and integer labels [N].

    A label outside 0..K-1 gives NaN.

    Attributes:
        smoothing: share of each label that goes to all classes alike; 0 for none.

    References:
        Szegedy et al., Rethinking the Inception architecture, 2016, section 7: label smoothing.

    Example:
        >>> loss = maml.CrossEntropy(smoothing=0.1)
        >>> round(float(loss(jnp.zeros((1, 2)), jnp.array([1]))), 3)
        0.693
    """

    smoothing: float = 0.0

    def __call__(self, logits: Float[Array, "N K"], labels: Int[Array, " N"]) -> Float[Array, ""]:
        """Returns the loss, a scalar."""
        ways = logits.shape[-1]
        if self.smoothing:
            targets = optax.smooth_labels(jax.nn.one_hot(labels, ways), self.smoothing)
            loss = optax.softmax_cross_entropy(logits, targets).mean()
        else:
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return jnp.where(jnp.all((labels >= 0) & (labels < ways)), loss, jnp.nan)

    def check(self, outputs: Any, labels: Any) -> None:
        """Raises a ValueError for labels that are no integers or outside 0..K-1; `outputs` are logits, [..., K]."""
        ways = outputs.shape[-1]
        labels = np.asarray(labels)
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"labels are {labels.dtype}; cross_entropy needs integers, 0..{ways - 1}."
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= ways:
            raise ValueError(
                f"labels are from {low} to {high}, but the backbone has {ways} outputs; number the classes of each "
                f"task 0..{ways - 1}."
            )


cross_entropy = CrossEntropy()


def accuracy(logits: Float[Array, "N K"], labels: Int[Array, " N"]) -> Float[Array, ""]:
    """Fraction of logits [N, K] whose largest element is that of the label, [N].

    Example:
        >>> float(maml.accuracy(jnp.array([[2.0, 1.0], [3.0, 1.0]]), jnp.array([0, 1])))
        0.5
    """
    return jnp.mean(jnp.argmax(logits, -1) == labels)


class InnerLoss(NamedTuple):
    """A loss of the support set, of which the outer loop may learn a part; the counterpart of `InnerOptimizer`.

    Attributes:
        init: (params, num_steps) -> learned pytree, leaves [S, ...], or [1, ...] where all steps share an entry.
        apply: (one step's entry of it, outputs, support batch, weights theta_i) -> scalar.
        of_queries: (one step's entry of it, outputs of the query set, weights theta_i) -> scalar that is added. The
            inner loop then reads the queries, without their labels (transductive). None where it does not.

    Example:
        >>> weighted = maml.InnerLoss(
        ...     lambda params, num_steps: jnp.ones(num_steps),
        ...     lambda weight, outputs, batch, params: weight * maml.cross_entropy(outputs, batch.targets),
        ... )
        >>> weighted.init({}, 3).tolist()
        [1.0, 1.0, 1.0]
    """

    init: Callable[[Params, int], Any]
    apply: Callable[[Any, Any, Batch, Params], Array]
    of_queries: Callable[[Any, Any, Params], Array] | None = None


def init_inner_loss(loss: Loss | InnerLoss, params: Params, num_steps: int) -> Any:
    """The learned part of an inner loss; empty for a `Loss`, which has none."""
    return loss.init(params, num_steps) if isinstance(loss, InnerLoss) else {}


def term_of_queries(loss: Loss | InnerLoss) -> Callable[[Any, Any, Params], Array] | None:
    """The part of an inner loss that reads the queries, see `InnerLoss.of_queries`; None where none does."""
    return loss.of_queries if isinstance(loss, InnerLoss) else None


def apply_inner_loss(
    loss: Loss | InnerLoss, learned: Any, outputs: Any, batch: Batch, params: Params
) -> Array:
    """The support loss at one inner step; see `InnerLoss.apply`."""
    if isinstance(loss, InnerLoss):
        return loss.apply(learned, outputs, batch, params)
    return loss(outputs, batch.targets)
