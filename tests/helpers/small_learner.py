"""A few-shot problem and a backbone that compile in a second, for tests of the loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mamlpp_jax.algorithms.inner_optimizers import lslr
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.meta_loss import meta_loss
from mamlpp_jax.algorithms.outer_loop import fixed_tasks, init_state, make_train_step
from mamlpp_jax.distributed.mesh import make_mesh, replicate
from mamlpp_jax.models import init_model, make_forward
from mamlpp_jax.models.layers import Conv, PerStepBatchNorm
from mamlpp_jax.types import Batch, Episode, StepPlan

B, WAY, STEPS, SIZE = 4, 3, 2, 8
OPTIMIZER = optax.adam(1e-2)


class OneBlock(nn.Module):
    """A backbone of the project's own layers that compiles in a second."""

    ways: int = WAY

    @nn.compact
    def __call__(self, images):
        x, bias = Conv(4, name="conv0")(images)
        x = nn.leaky_relu(PerStepBatchNorm(max_pool=True, name="norm0")(x, bias), 0.01)
        return nn.Dense(self.ways, dtype=x.dtype, name="linear")(x.reshape(len(x), -1))


def make_learner(**options):
    module = OneBlock()
    settings = {"inner_optimizer": lslr(0.1), "inner_steps": STEPS, **options}
    return module, Learner(forward=make_forward(module), **settings)


def make_state(module, learner):
    variables = init_model(module, jax.random.key(1), jnp.zeros((1, SIZE, SIZE, 1)))
    # float64 inside `jax.enable_x64`, float32 outside.
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.zeros(()).dtype), variables)
    return init_state(learner, variables, OPTIMIZER)


def make_episodes(tasks=B, seed=0):
    rng = np.random.default_rng(seed)
    # Classes differ by a pattern of their own, so that there is something to learn.
    patterns = rng.normal(size=(tasks, WAY, SIZE, SIZE, 1))
    images = [patterns + 0.5 * rng.normal(size=patterns.shape) for _ in range(2)]
    labels = jnp.tile(jnp.arange(WAY, dtype=jnp.int32), (tasks, 1))
    dtype = jnp.zeros(()).dtype
    support, query = (jnp.asarray(image, dtype) for image in images)
    return Episode(Batch(support, labels), Batch(query, labels))


def plan(weights=None, order=2, multi_step=True):
    weights = jnp.full(STEPS, 1 / STEPS) if weights is None else jnp.asarray(weights)
    return StepPlan(weights, order, multi_step)


def one_step(learner, state, episodes, *, chunk=None, devices=None, order=2, multi_step=True):
    tasks = len(episodes.query.targets)
    mesh = make_mesh(tasks, devices) if devices else None
    step = make_train_step(
        learner, OPTIMIZER, fixed_tasks, tasks_per_step=tasks, tasks_per_chunk=chunk, mesh=mesh
    )
    if mesh is not None:
        state, episodes = replicate((state, episodes), mesh)
    return jax.jit(step)(state, episodes, plan(order=order, multi_step=multi_step))


def loss_at(learner, state, episodes, weights=None, **static):
    function = partial(meta_loss, learner)
    return jax.jit(function)(state.meta, state.batch_stats, episodes, plan(weights, **static))


def gradient_at(learner, state, episodes, weights=None, **static):
    function = jax.grad(partial(meta_loss, learner), has_aux=True)
    return jax.jit(function)(state.meta, state.batch_stats, episodes, plan(weights, **static))[0]
