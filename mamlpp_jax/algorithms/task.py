"""One task as functions of its weights: the one place where theta_0, per-step values and passes are made.

Training, Reptile, evaluation and predictions all adapt to and query a `Task`.

Where the inner loop adapts the head alone, and neither scale and bias nor the statistics of batch norm change from step
to step, the body computes the same in every step. Then its features are computed once per task (ANIL: Raghu, Raghu,
Bengio, Vinyals, "Rapid Learning or Feature Reuse?", ICLR 2020, section 4). The results are those of the whole backbone;
the outer gradient reaches the body through the features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mamlpp_jax.algorithms.inner_loop import Trace, adapt
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.losses import apply_inner_loss, term_of_queries
from mamlpp_jax.models.moments import map_layers
from mamlpp_jax.statistics import Statistics
from mamlpp_jax.types import (
    Array,
    Batch,
    Episode,
    Forward,
    MetaParams,
    Moments,
    NormParams,
    Params,
    RunningStats,
)
from mamlpp_jax.utils.trees import entry, named_leaves

# The passes of an inner step, which have random keys of their own.
_SUPPORT, _QUERY, _STATISTICS = range(3)


class PerStep(NamedTuple):
    """Values that differ between inner steps; leaves [S, ...] over all steps, [...] for one of them.

    Attributes:
        number: int32, of the step, from 0.
        norm: batch-norm scale and bias, and what else the statistics mode learns.
        inner: the inner optimizer's learned part.
        inner_loss: the inner loss's learned part.
        bn_stats: running mean and variance, with `anneal` in annealed modes.
        key: random key of the step of one task; None where nothing is drawn.
        support: a batch of the step's own; None for the support set in every step.

    Example:
        >>> maml.per_step_values(learner, state.meta, {}).number.tolist()
        [0, 1]
    """

    number: Array
    norm: NormParams
    inner: Any
    inner_loss: Any
    bn_stats: RunningStats
    key: Array | None = None
    support: Batch | None = None


def per_step_values(
    learner: Learner, meta: MetaParams, batch_stats: RunningStats, anneal: Array | float = 1.0
) -> PerStep:
    """Gives each of the learner's inner steps its own entry.

    Shared batch-norm leaves [F] become the same entry in every step. Where the learner takes more steps than were
    trained, the last entry repeats; where it takes fewer, the first ones are used.

    Args:
        learner: the number of steps, and what is shared.
        meta: norm leaves [S', F] or [F], learned leaves [S', ...] or [1, ...].
        batch_stats: leaves [S', F] or [F].
        anneal: as in `StepPlan`; 1, as in every evaluation, by default.

    Raises:
        ValueError: the statistics mode learns entries that this model, trained in another mode, lacks.

    Example:
        >>> jax.tree.map(jnp.shape, maml.per_step_values(learner, state.meta, {}).inner)
        {'bias': (2,), 'kernel': (2,)}
    """
    steps = learner.inner_steps

    def fit(leaf: Array) -> Array:
        missing = steps - leaf.shape[0]
        if missing <= 0:
            return leaf[:steps]
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])

    def fit_norm(tree: Any, per_step: bool) -> Any:
        return jax.tree.map(lambda leaf: fit(leaf if per_step else leaf[None]), tree)

    stats = fit_norm(batch_stats, learner.per_step_statistics)
    if learner.mode.annealed:
        stats = _with_anneal(stats, anneal)
    return PerStep(
        number=jnp.arange(steps, dtype=jnp.int32),
        norm=fit_norm(_entries_of_mode(meta.norm, learner.mode), learner.per_step_affine),
        inner=jax.tree.map(fit, meta.inner),
        inner_loss=jax.tree.map(fit, meta.inner_loss),
        bn_stats=stats,
    )


def at_step(per_step: PerStep, index: int) -> PerStep:
    """The entry of one inner step; `index` is static and may be negative.

    Example:
        >>> int(maml.at_step(maml.per_step_values(learner, state.meta, {}), -1).number)
        1
    """
    step: PerStep = entry(per_step, index)
    return step


def _entries_of_mode(norm: NormParams, mode: Statistics) -> NormParams:
    """Scale, bias and what the mode learns; entries that another mode learned are left out."""
    names = ("scale", "bias", *(name for name, _ in mode.learned))

    def choose(layer: dict[str, Array]) -> dict[str, Array]:
        if lacking := [name for name in names if name not in layer]:
            raise ValueError(
                f"statistics are {mode.name!r}, but this model has not learned {', '.join(lacking)}: `init_state` "
                "makes it for a learner of that mode."
            )
        return {name: layer[name] for name in names}

    return map_layers(choose, norm)


def _with_anneal(stats: RunningStats, anneal: Array | float) -> Moments:
    """Puts `anneal`, the same in every layer and step, beside mean and variance [S, F]."""

    def mark(layer: dict[str, Array]) -> dict[str, Array]:
        mean = layer["mean"]
        steps = jnp.broadcast_to(jnp.asarray(anneal, mean.dtype), mean.shape[:-1])
        return {**layer, "anneal": steps}

    return map_layers(mark, stats)


class Task(NamedTuple):
    """One task.

    Attributes:
        theta: theta_0.
        per_step: leaves [S, ...].
        support_loss: (theta_i, values of step i) -> the inner loss, a scalar, and the batch moments of the pass.
        query: (theta_{i+1}, values of step i) -> outputs and batch moments of the query set.
        query_moments: (theta_{i+1}, values of step i) -> what normalises the query set; None for its own moments.

    Example:
        >>> task = maml.make_task(learner, state.meta, {}, episode)
        >>> outputs, moments = task.query(task.theta, maml.at_step(task.per_step, 0))
        >>> outputs.shape
        (3, 3)
    """

    theta: Params
    per_step: PerStep
    support_loss: Callable[[Params, PerStep], tuple[Array, Moments]]
    query: Callable[[Params, PerStep], tuple[Any, Moments]]
    query_moments: Callable[[Params, PerStep], Moments | None]


def make_task(
    learner: Learner,
    meta: MetaParams,
    batch_stats: RunningStats,
    episode: Episode,
    anneal: Array | float = 1.0,
    batches: Batch | None = None,
) -> Task:
    """Makes the functions of one task.

    Args:
        learner: the static part.
        meta: meta-parameters.
        batch_stats: running statistics; read by modes with `reads_running` alone.
        episode: leaves without a leading B.
        anneal: as in `StepPlan`.
        batches: a support batch for each step, leaves [S, n, ...]; None for the support set in every step.

    Example:
        >>> task = maml.make_task(learner, state.meta, {}, episode)
        >>> jax.tree.map(jnp.shape, task.theta)
        {'bias': (3,), 'kernel': (4, 3)}
    """
    per_step = per_step_values(learner, meta, batch_stats, anneal)._replace(support=batches)
    if episode.key is not None:
        per_step = per_step._replace(key=jax.random.split(episode.key, learner.inner_steps))
    first = at_step(per_step, 0)

    def support_features(params: Params) -> Any:
        return _passes(_body(learner), learner, episode).support(params, first)[0]

    theta = learner.init_theta(meta.params, episode.support, support_features)
    passes = _passes(learner.forward, learner, episode)
    if _body_is_fixed(learner, theta, per_step):
        passes = _precompute_features(learner, theta, first, episode)

    of_queries = term_of_queries(learner.inner_loss)

    def support_loss(theta: Params, values: PerStep) -> tuple[Array, Moments]:
        outputs, moments = passes.support(theta, values)
        batch = values.support or episode.support
        loss = apply_inner_loss(learner.inner_loss, values.inner_loss, outputs, batch, theta)
        if of_queries is not None:
            loss += of_queries(values.inner_loss, passes.query(theta, values)[0], theta)
        return loss, moments

    return Task(theta, per_step, support_loss, passes.query, passes.query_moments)


def adapt_to(
    learner: Learner,
    task: Task,
    *,
    order: int,
    after_step: Callable[[Params, PerStep], Any] | None = None,
    unroll: int | None = None,
) -> tuple[Params, Trace]:
    """Adapts to a task by the learner's inner optimizer; see `inner_loop.adapt`.

    Args:
        learner: the one that made the task.
        task: its theta and loss.
        order: of derivatives, 1 or 2.
        after_step: as in `adapt`.
        unroll: None for the learner's; 1 where nothing is differentiated through the steps.

    Example:
        >>> task = maml.make_task(learner, state.meta, {}, episode)
        >>> theta, trace = maml.adapt_to(learner, task, order=1)
        >>> bool(trace.loss[1] < trace.loss[0])
        True
    """
    return adapt(
        task.support_loss,
        learner.inner_optimizer,
        task.theta,
        task.per_step,
        order=order,
        after_step=after_step,
        unroll=unroll or learner.unroll,
        remat=learner.remat,
    )


def query_pass(
    learner: Learner, params: Params, step: PerStep, episode: Episode
) -> tuple[Any, Moments]:
    """Computes outputs and batch moments of a query set at any weights; see `Task.query`.

    Args:
        learner: the static part.
        params: theta_{i+1}.
        step: values of inner step i (`per_step_values`, `at_step`).
        episode: leaves without a leading B.

    Example:
        >>> step = maml.at_step(maml.per_step_values(learner, state.meta, {}), 0)
        >>> maml.query_pass(learner, state.meta.params, step, episode)[0].shape
        (3, 3)
    """
    return _passes(learner.forward, learner, episode).query(params, step)


def features(
    learner: Learner, meta: MetaParams, batch_stats: RunningStats, episode: Episode
) -> tuple[Any, Any]:
    """Computes the features of a support and of a query set at theta_0, normalised as the learner's mode says."""
    first = at_step(per_step_values(learner, meta, batch_stats), 0)
    passes = _passes(_body(learner), learner, episode)
    return passes.support(meta.params, first)[0], passes.query(meta.params, first)[0]


class _Passes(NamedTuple):
    """The passes of an inner step through the backbone, each (weights, values of the step) -> its result."""

    support: Callable[[Params, PerStep], tuple[Any, Moments]]
    query: Callable[[Params, PerStep], tuple[Any, Moments]]
    query_moments: Callable[[Params, PerStep], Moments | None]


def _passes(forward: Forward, learner: Learner, episode: Episode) -> _Passes:
    """The passes of a backbone, or of its body, normalised as the learner's statistics mode says."""
    mode = learner.mode

    def support(params: Params, step: PerStep) -> tuple[Any, Moments]:
        inputs = (step.support or episode.support).inputs
        given = mode.support(step.bn_stats)
        return forward(params, step.norm, inputs, given, **_key_of_pass(step, _SUPPORT))

    def query_moments(params: Params, step: PerStep) -> Moments | None:
        def of_support() -> Moments:
            key = _key_of_pass(step, _STATISTICS)
            return forward(params, step.norm, episode.support.inputs, None, **key)[1]

        return mode.query(step.bn_stats, of_support)

    def query(params: Params, step: PerStep) -> tuple[Any, Moments]:
        given = query_moments(params, step)
        return forward(params, step.norm, episode.query.inputs, given, **_key_of_pass(step, _QUERY))

    return _Passes(support, query, query_moments)


def _key_of_pass(step: PerStep, number: int) -> dict[str, Array]:
    """The argument `key` of one pass; none without a key."""
    return {} if step.key is None else {"key": jax.random.fold_in(step.key, number)}


def _body(learner: Learner) -> Forward:
    if learner.body_and_head is None:
        raise ValueError(
            "Learner.init_theta asks for features, but Learner.body_and_head is None; give it "
            "make_body_and_head(module)."
        )
    return learner.body_and_head.body


def _body_is_fixed(learner: Learner, theta: Params, per_step: PerStep) -> bool:
    """Returns True where every inner step leaves the features of the body as they are."""
    split = learner.body_and_head
    statistics_change = learner.mode.reads_running and learner.per_step_statistics
    inputs_change = per_step.key is not None or per_step.support is not None
    if split is None or inputs_change or learner.per_step_affine or statistics_change:
        return False
    return not any(
        learner.inner_optimizer.adapts(path)
        for path in named_leaves(theta)
        if not split.in_head(path)
    )


def _precompute_features(
    learner: Learner, theta: Params, first: PerStep, episode: Episode
) -> _Passes:
    """Passes of the head alone, over features that the body has at theta_0 and the first step."""
    assert learner.body_and_head is not None
    body = _passes(learner.body_and_head.body, learner, episode)
    support, support_moments = body.support(theta, first)
    query, query_moments = body.query(theta, first)
    head = learner.body_and_head.head
    return _Passes(
        support=lambda params, step: (head(params, support), support_moments),
        query=lambda params, step: (head(params, query), query_moments),
        query_moments=lambda params, step: body.query_moments(theta, first),
    )
