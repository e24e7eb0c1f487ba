"""The inner loop: adapting to one task, as a `lax.scan` over inner steps.

Inner step i starts from theta_i and uses entry i of everything that is per step:

    1. support loss and its gradient at theta_i;
    2. theta_{i+1} = theta_i - inner_lr[i] * gradient, through the optax transformation of step i;
    3. whatever the caller wants of theta_{i+1} and step i (`after_step`: a query loss, logits, nothing).

"How to train your MAML" (Antoniou, Edwards, Storkey, ICLR 2019), equations 1 and 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax import lax

from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.noise import QUERY, STATISTICS, SUPPORT, key_of_pass
from mamlpp_jax.algorithms.per_step import PerStep, at_step
from mamlpp_jax.types import Array, Episode, Moments, Params

# Steps per iteration of the scan. A rolled loop writes what the backward pass needs into arrays stacked
# over steps; unrolled, those copies go away (a quarter of the time on a CPU) for twice the compile time.
_UNROLLED = 5


class Trace(NamedTuple):
    """What the inner loop leaves behind, one entry per inner step.

    Attributes:
        support_loss: [S].
        support_moments: batch moments of the support passes, leaves [S, F].
        after: what `after_step` returned, leaves [S, ...]; None without it.
    """

    support_loss: Array
    support_moments: Moments
    after: Any


AfterStep = Callable[[Params, PerStep], Any]


def support_pass(
    learner: Learner, params: Params, step: PerStep, images: Array
) -> tuple[Array, Moments]:
    """Outputs and batch moments of the support set.

    `running` and `renorm` normalise by the running statistics, the other modes by the batch itself, `tasknorm` blended
    with each image's own moments.
    """
    given = _running_statistics(learner, step)
    return learner.forward(params, step.norm, images, given, **key_of_pass(step.key, SUPPORT))


def query_statistics(
    learner: Learner, params: Params, step: PerStep, support_images: Array
) -> Moments | None:
    """What normalises the query set, as `learner.bn_mode` says; None for the query batch itself.

    `batch`: by the query batch itself (transductive). `running`: by the running statistics of the step.
    `renorm`: by these, with derivatives through the batch's own moments (`models.renorm`).
    `support`: by the support set's moments under the same weights and step (inductive; one more
    forward pass, through which gradients flow). `tasknorm`: by these, blended with each image's own.
    """
    if learner.bn_mode in ("support", "tasknorm"):
        key = key_of_pass(step.key, STATISTICS)
        return learner.forward(params, step.norm, support_images, None, **key)[1]
    return _running_statistics(learner, step)


def _running_statistics(learner: Learner, step: PerStep) -> Moments | None:
    return step.bn_stats if learner.bn_mode in ("running", "renorm") else None


def query_pass(
    learner: Learner, params: Params, step: PerStep, episode: Episode
) -> tuple[Array, Moments]:
    """Outputs and batch moments of the query set, normalised by its `query_statistics`."""
    given = query_statistics(learner, params, step, episode.support_images)
    key = key_of_pass(step.key, QUERY)
    return learner.forward(params, step.norm, episode.query_images, given, **key)


def adapt(
    learner: Learner,
    params: Params,
    per_step: PerStep,
    episode: Episode,
    *,
    order: int = 2,
    after_step: AfterStep | None = None,
    minibatches: tuple[Array, Array] | None = None,
    differentiated: bool = True,
) -> tuple[Params, Trace]:
    """Adapts `params` to one task by the learner's inner steps.

    Args:
        learner: backbone, inner optimizer and inner loss.
        params: theta_0.
        per_step: leaves [S, ...], see `per_step.lay_out`.
        episode: the task; the query set is read by `after_step` only.
        order: 1 or 2, see `StepPlan`.
        after_step: called with theta_{i+1} and entry i of `per_step` inside the scan.
        minibatches: images [S, n, H, W, C] and labels [S, n] of each step; None for the support set in every step.
        differentiated: whether anything goes back through the steps, which is faster where they are unrolled.

    Returns:
        theta_S and the trace.
    """

    def support_loss(
        theta: Params, values: PerStep, images: Array, labels: Array
    ) -> tuple[Array, Moments]:
        outputs, moments = support_pass(learner, theta, values, images)
        return learner.inner_loss(outputs, labels), moments

    def step(
        carry: tuple[Params, Any], entry: tuple[PerStep, tuple[Array, Array] | None]
    ) -> tuple[tuple[Params, Any], Trace]:
        (theta, opt_state), (values, minibatch) = carry, entry
        images, labels = minibatch or (episode.support_images, episode.support_labels)
        (loss, moments), gradient = jax.value_and_grad(support_loss, has_aux=True)(
            theta, values, images, labels
        )
        if order == 1:
            gradient = lax.stop_gradient(gradient)
        transform = learner.inner_optimizer.transform(values.inner)
        updates, opt_state = transform.update(gradient, opt_state, theta)
        theta = optax.apply_updates(theta, updates)
        after = after_step(theta, values) if after_step is not None else None
        return (theta, opt_state), Trace(loss, lax.stop_gradient(moments), after)

    first = learner.inner_optimizer.transform(at_step(per_step, 0).inner)
    (theta, _), trace = lax.scan(
        jax.checkpoint(step, prevent_cse=False) if learner.remat else step,
        (params, first.init(params)),
        (per_step, minibatches),
        length=learner.inner_steps,
        unroll=min(learner.inner_steps, _UNROLLED) if differentiated and not learner.remat else 1,
    )
    return theta, trace
