"""The inner loop: adapting to one task, as a `lax.scan` over inner steps.

Inner step i starts from theta_i and uses row i of everything that is per step:

    1. support loss and its gradient at theta_i;
    2. theta_{i+1} = theta_i - inner_lr[i] * gradient, through the optax transformation of row i;
    3. whatever the caller wants of theta_{i+1} and row i (`after_step`: a query loss, logits, nothing).

"How to train your MAML" (Antoniou, Edwards, Storkey, ICLR 2019), equations 1 and 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mamlpp_jax.algorithms.inner_optimizers import InnerOptimizer
from mamlpp_jax.types import Array, Episode, Forward, Moments, NormParams, Params, RunningStats

STATISTICS = ("batch", "running", "support")
# Steps per iteration of the scan. A rolled loop writes what the backward pass needs into arrays stacked
# over steps; unrolled, those copies go away (a quarter of the time on a CPU) for twice the compile time.
_UNROLLED = 5


class StepRows(NamedTuple):
    """What inner step i reads besides the task; leaves [S, ...] over all steps, [...] for one.

    Attributes:
        norm: batch-norm scale and bias.
        inner: the inner optimizer's learned part.
        running: running mean and variance.
    """

    norm: NormParams
    inner: Any
    running: RunningStats


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


AfterStep = Callable[[Params, StepRows], Any]


def step_rows(norm: NormParams, inner: Any, running: RunningStats, num_steps: int) -> StepRows:
    """Lays out per-step rows for `num_steps` inner steps.

    Shared batch-norm leaves [F] become the same row in every step. Where fewer steps were trained than
    are asked for, the last row repeats; where more were, the first ones are taken.

    Args:
        norm: leaves [S, F] or [F].
        inner: leaves [S, ...].
        running: leaves [S, F] or [F].
        num_steps: inner steps to be run.
    """

    def fit(leaf: Array) -> Array:
        missing = num_steps - leaf.shape[0]
        if missing <= 0:
            return leaf[:num_steps]
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])

    def per_step(leaf: Array) -> Array:
        return fit(leaf if leaf.ndim == 2 else leaf[None])

    return StepRows(
        jax.tree.map(per_step, norm), jax.tree.map(fit, inner), jax.tree.map(per_step, running)
    )


def row_at(rows: StepRows, index: int) -> StepRows:
    """One step's row; `index` is static and may be negative."""
    return jax.tree.map(lambda leaf: leaf[index], rows)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean softmax cross-entropy of logits [N, K] and integer labels [N]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def support_pass(
    forward: Forward, statistics: str, params: Params, row: StepRows, images: Array
) -> tuple[Array, Moments]:
    """Logits and batch moments of the support set; all but `running` normalise by its own batch."""
    given = row.running if statistics == "running" else None
    return forward(params, row.norm, images, given)


def query_pass(
    forward: Forward, statistics: str, params: Params, row: StepRows, episode: Episode
) -> tuple[Array, Moments]:
    """Logits and batch moments of the query set, normalised as `statistics` says.

    `batch`: by the query batch itself (transductive). `running`: by the running statistics of the row.
    `support`: by the support set's moments under the same weights and row (inductive; one more
    forward pass, through which gradients flow).
    """
    given = {"batch": None, "running": row.running}.get(statistics)
    if statistics == "support":
        _, given = forward(params, row.norm, episode.support_images)
    return forward(params, row.norm, episode.query_images, given)


def adapt(
    forward: Forward,
    inner_optimizer: InnerOptimizer,
    params: Params,
    rows: StepRows,
    episode: Episode,
    *,
    order: int = 2,
    statistics: str = "batch",
    after_step: AfterStep | None = None,
    remat: bool = False,
) -> tuple[Params, Trace]:
    """Adapts `params` to one task by as many gradient steps as `rows` has.

    Args:
        forward: the backbone.
        inner_optimizer: turns a support gradient into an update.
        params: theta_0.
        rows: leaves [S, ...], see `step_rows`.
        episode: the task; the query set is read by `after_step` only.
        order: 2 differentiates through the updates; 1 stops gradients at the support gradient
            (first-order MAML; rates and normalisation still learn from the query loss).
        statistics: what normalises the support pass, one of `STATISTICS`.
        after_step: called with theta_{i+1} and row i inside the scan.
        remat: keep only theta_i of a step and compute the rest again in the backward pass: for many
            steps, memory instead of time.

    Returns:
        theta_S and the trace.
    """

    def support_loss(theta: Params, row: StepRows) -> tuple[Array, Moments]:
        logits, moments = support_pass(forward, statistics, theta, row, episode.support_images)
        return cross_entropy(logits, episode.support_labels), moments

    def step(carry: tuple[Params, Any], row: StepRows) -> tuple[tuple[Params, Any], Trace]:
        theta, opt_state = carry
        (loss, moments), gradient = jax.value_and_grad(support_loss, has_aux=True)(theta, row)
        if order == 1:
            gradient = lax.stop_gradient(gradient)
        transform = inner_optimizer.transform(row.inner)
        updates, opt_state = transform.update(gradient, opt_state, theta)
        theta = optax.apply_updates(theta, updates)
        after = after_step(theta, row) if after_step is not None else None
        return (theta, opt_state), Trace(loss, lax.stop_gradient(moments), after)

    opt_state = inner_optimizer.transform(row_at(rows, 0).inner).init(params)
    steps = jax.tree.leaves(rows)[0].shape[0]
    (theta, _), trace = lax.scan(
        jax.checkpoint(step, prevent_cse=False) if remat else step,
        (params, opt_state),
        rows,
        unroll=1 if remat else min(steps, _UNROLLED),
    )
    return theta, trace
