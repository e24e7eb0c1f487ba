"""The outer loop: the gradient of the meta-loss, chunk by chunk and device by device, and the update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.losses import init_inner_loss
from mamlpp_jax.algorithms.meta_loss import meta_loss
from mamlpp_jax.distributed.mesh import AXIS, mark_varying
from mamlpp_jax.models.moments import fold_moments, map_layers
from mamlpp_jax.types import (
    Array,
    Episode,
    MetaParams,
    MetaState,
    ModelVariables,
    Moments,
    NormParams,
    RunningStats,
    SampleTasks,
    StepPlan,
)


class StepMetrics(NamedTuple):
    """Metrics of one outer step; scalars."""

    loss: Array  # the meta-loss before the update
    metric: Array  # of the query set after the last inner step, before the update
    grad_norm: Array  # global L2 norm of the meta-gradient, before any clipping
    finite: Array  # bool, of the loss and, after the update, of all that is learned or accumulated


class OuterGradient(NamedTuple):
    """The contribution of a batch of tasks to an outer step, each a mean over its tasks."""

    gradient: MetaParams  # the direction the outer optimizer descends
    loss: Array  # []
    metric: Array  # []
    support_moments: Moments  # leaves [S, F]
    query_moments: Moments  # leaves [S, F] or [1, F]


# (learner, meta, batch_stats, episodes with a leading B, plan) -> what they contribute.
GradientFunction = Callable[[Learner, MetaParams, RunningStats, Episode, StepPlan], OuterGradient]


def init_state(
    learner: Learner, variables: ModelVariables, optimizer: optax.GradientTransformation
) -> MetaState:
    """The state before the first outer step.

    Args:
        learner: gives the number of inner steps, what inner optimizer, inner loss and statistics learn, and what is
            per step.
        variables: a fresh backbone (`models.init_model`).
        optimizer: the outer optimizer.

    Raises:
        ValueError: a leaf that an inner optimizer or loss learns has no axis of inner steps.

    Example:
        >>> maml.init_state(learner, variables, optax.sgd(0.1)).meta.inner["bias"].tolist()
        [0.10000000149011612, 0.10000000149011612]
    """

    def repeat(tree: Any, per_step: bool) -> Any:
        copies = (learner.inner_steps, 1) if per_step else (1,)
        return jax.tree.map(lambda leaf: jnp.tile(leaf, copies), tree)

    params, steps = variables.params, learner.inner_steps
    meta = MetaParams(
        params=params,
        norm=repeat(_with_learned(variables.norm, learner), learner.per_step_affine),
        inner=learner.inner_optimizer.init(params, steps),
        inner_loss=init_inner_loss(learner.inner_loss, params, steps),
    )
    _check_steps("InnerOptimizer.init", meta.inner, steps)
    _check_steps("InnerLoss.init", meta.inner_loss, steps)
    # Weak types, as of `jnp.full(5, 0.1)`, would be gone after one step, which would be compiled again.
    meta = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), meta)
    batch_stats = repeat(variables.batch_stats, learner.per_step_statistics)
    return MetaState(jnp.zeros((), jnp.int32), meta, batch_stats, optimizer.init(meta))


def _with_learned(norm: NormParams, learner: Learner) -> NormParams:
    """Gives every normalised layer the entries that the statistics mode learns."""

    def add(layer: dict[str, Array]) -> dict[str, Array]:
        dtype = layer["scale"].dtype
        entries = {name: jnp.asarray(start, dtype) for name, start in learner.mode.learned}
        return {**layer, **entries}

    return map_layers(add, norm)


def _check_steps(made_by: str, learned: Any, steps: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(learned):
        if not leaf.shape or leaf.shape[0] not in (1, steps):
            raise ValueError(
                f"{made_by} made the leaf {jax.tree_util.keystr(path)!r} of shape {leaf.shape}; its first axis must "
                f"have an entry for each of the {steps} inner steps, or 1 that all share."
            )


def meta_gradient(
    learner: Learner,
    meta: MetaParams,
    batch_stats: RunningStats,
    episodes: Episode,
    plan: StepPlan,
) -> OuterGradient:
    """The gradient of `meta_loss` and its by-products; the default of `make_train_step`."""
    (loss, aux), gradient = jax.value_and_grad(
        lambda meta: meta_loss(learner, meta, batch_stats, episodes, plan), has_aux=True
    )(meta)
    return OuterGradient(gradient, loss, aux.metric, aux.support_moments, aux.query_moments)


def mean_over_chunks(
    gradient_of: Callable[[Array], OuterGradient], task_indices: Array
) -> OuterGradient:
    """Averages over chunks of tasks, int32 [chunks, tasks per chunk], one chunk at a time.

    Differentiating inside the scan (not the scan as a whole) keeps one chunk's residuals alive at a time.
    """
    chunks = task_indices.shape[0]
    if chunks == 1:
        return gradient_of(task_indices[0])

    def zeros(shape: jax.ShapeDtypeStruct) -> Array:
        # Made from an index, so that inside `shard_map` it differs between devices as the sums do.
        return jnp.broadcast_to(jnp.zeros_like(task_indices[0, 0], shape.dtype), shape.shape)

    total, _ = lax.scan(
        lambda sums, indices: (jax.tree.map(jnp.add, sums, gradient_of(indices)), None),
        jax.tree.map(zeros, jax.eval_shape(gradient_of, task_indices[0])),
        task_indices,
    )
    return jax.tree.map(lambda leaf: leaf / chunks, total)


TrainStep = Callable[[MetaState, Any, StepPlan], tuple[MetaState, StepMetrics]]


def make_train_step(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    sample_tasks: SampleTasks,
    *,
    tasks_per_step: int,
    tasks_per_chunk: int | None = None,
    mesh: Mesh | None = None,
    gradient_function: GradientFunction = meta_gradient,
    key: Array | None = None,
) -> TrainStep:
    """Builds the outer step, a pure function to be jitted.

    Args:
        learner: the static part.
        optimizer: over `MetaParams`; its learning rate may be an optax schedule. It is given the loss as `value`.
        sample_tasks: ``sample_tasks(source, step, task_indices) -> Episode``; a task depends on its
            global index alone, so that results do not depend on devices or chunks. Where it has a method
            ``check(source, tasks_per_step)``, this is called first.
        tasks_per_step: B, the meta-batch.
        tasks_per_chunk: tasks computed together, a divisor of the tasks per device; all by default.
        mesh: a one-axis mesh (`distributed.mesh.make_mesh`) over which tasks are sharded; None for one device.
        gradient_function: makes the contribution of a chunk of tasks; another one makes another outer loop.
        key: of the random numbers that a backbone draws in training (`nn.Dropout`), which differ between outer steps
            and tasks; None to draw none.

    Returns:
        ``train_step(state, source, plan) -> (state, StepMetrics)``; compiles once per order and kind of loss.

    Raises:
        ValueError: B does not divide over the devices, or a device's tasks over chunks. The train step raises it
            where the source does not have B tasks or the optimizer needs more than gradient and loss.

    Example:
        >>> step = maml.make_train_step(learner, optimizer, maml.fixed_tasks, tasks_per_step=8)
        >>> new, metrics = jax.jit(step)(state, episodes, maml.StepPlan())
        >>> int(new.step), bool(metrics.finite)
        (1, True)
    """
    check_source = getattr(sample_tasks, "check", lambda source, tasks: None)
    if key is not None:
        sample_tasks = _with_keys(sample_tasks, key)
    indices = _task_indices(tasks_per_step, tasks_per_chunk, mesh.size if mesh is not None else 1)

    def device_mean(state: MetaState, source: Any, indices: Array, plan: StepPlan) -> OuterGradient:
        def gradient_of(chunk: Array) -> OuterGradient:
            episodes = sample_tasks(source, state.step, chunk)
            return gradient_function(learner, state.meta, state.batch_stats, episodes, plan)

        return mean_over_chunks(gradient_of, indices)

    def train_step(state: MetaState, source: Any, plan: StepPlan) -> tuple[MetaState, StepMetrics]:
        check_source(source, tasks_per_step)
        mean = _over_devices(device_mean, mesh)(state, source, indices, plan)
        return _update(learner, optimizer, state, mean)

    return train_step


def _with_keys(sample_tasks: SampleTasks, key: Array) -> SampleTasks:
    """Gives every task a key of its own, which depends on `key`, the outer step and its global index alone."""

    def sample(source: Any, step: Array, task_indices: Array) -> Episode:
        of_step = jax.random.fold_in(key, step)
        keys = jax.vmap(lambda index: jax.random.fold_in(of_step, index))(task_indices)
        return sample_tasks(source, step, task_indices)._replace(key=keys)

    return sample


def _task_indices(tasks: int, tasks_per_chunk: int | None, devices: int) -> Array:
    """int32 [chunks of all devices, tasks per chunk]."""
    per_device, rest = divmod(tasks, devices)
    if rest:
        raise ValueError(f"{tasks} tasks do not divide over {devices} devices")
    chunk = tasks_per_chunk or per_device
    if per_device % chunk:
        raise ValueError(f"tasks_per_chunk={chunk} does not divide {per_device} tasks per device")
    return jnp.arange(tasks, dtype=jnp.int32).reshape(-1, chunk)


def _update(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    state: MetaState,
    mean: OuterGradient,
) -> tuple[MetaState, StepMetrics]:
    updates, opt_state = _descend(optimizer, state, mean)
    meta = optax.apply_updates(state.meta, updates)
    batch_stats = fold_moments(
        state.batch_stats,
        mean.support_moments,
        mean.query_moments,
        per_step=learner.per_step_statistics,
        momentum=learner.running_decay,
    )
    checked = jax.tree.leaves((mean.loss, meta, batch_stats))
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in checked])
    metrics = StepMetrics(mean.loss, mean.metric, optax.tree.norm(mean.gradient), finite.all())
    return MetaState(state.step + 1, meta, batch_stats, opt_state), metrics


def _descend(
    optimizer: optax.GradientTransformation, state: MetaState, mean: OuterGradient
) -> tuple[MetaParams, Any]:
    """The optimizer's updates and state, with the loss for those that want it."""
    update = optax.with_extra_args_support(optimizer).update
    try:
        return update(mean.gradient, state.opt_state, state.meta, value=mean.loss)
    except TypeError as error:
        if "required keyword-only argument" not in str(error):
            raise
        needed = str(error).partition("argument")[2].strip("s: ")
        raise ValueError(
            f"the outer optimizer needs {needed}, which an outer step does not have: it gives the gradient, the "
            "meta-parameters and the loss (`value`). Use an optimizer without a line search."
        ) from error


def _over_devices(
    device_mean: Callable[..., OuterGradient], mesh: Mesh | None
) -> Callable[..., OuterGradient]:
    """Runs `device_mean` on every device's share of the task indices and averages."""
    if mesh is None:
        return device_mean
    everywhere = PartitionSpec()

    def on_device(state: MetaState, source: Any, indices: Array, plan: StepPlan) -> OuterGradient:
        state, plan = mark_varying((state, plan))
        return lax.pmean(device_mean(state, source, indices, plan), AXIS)

    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(everywhere, everywhere, PartitionSpec(AXIS), everywhere),
        out_specs=everywhere,
    )


def scan_steps(train_step: TrainStep, num_steps: int) -> TrainStep:
    """Several outer steps in one dispatch; metrics get a leading axis of `num_steps`.

    Example:
        >>> step = maml.make_train_step(learner, optimizer, maml.fixed_tasks, tasks_per_step=8)
        >>> new, metrics = maml.scan_steps(step, 10)(state, episodes, maml.StepPlan(order=1))
        >>> metrics.loss.shape
        (10,)
    """

    def steps(state: MetaState, source: Any, plan: StepPlan) -> tuple[MetaState, StepMetrics]:
        return lax.scan(
            lambda state, _: train_step(state, source, plan), state, None, length=num_steps
        )

    return steps


class FixedTasks:
    """A `SampleTasks` whose source is a ready meta-batch: the same tasks in every step.

    Example:
        >>> maml.fixed_tasks(episodes, step=jnp.array(0), task_indices=jnp.array([2, 3])).support.inputs.shape
        (2, 3, 4)
    """

    def __call__(self, episodes: Episode, step: Array, task_indices: Array) -> Episode:
        """Returns the tasks with these indices; `step` is not read."""
        return jax.tree.map(lambda leaf: leaf[task_indices], episodes)

    def check(self, episodes: Episode, tasks: int) -> None:
        """Raises a ValueError where a leaf has more or fewer tasks than an outer step takes."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(episodes):
            if leaf.shape[:1] != (tasks,):
                raise ValueError(
                    f"episodes{jax.tree_util.keystr(path)} has the shape {leaf.shape}, but tasks_per_step is {tasks}; "
                    f"its first axis must have {tasks} tasks."
                )


fixed_tasks = FixedTasks()
