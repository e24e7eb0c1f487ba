"""What is drawn depends on the key, the outer step, the task, the inner step and the pass, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from mamlpp_jax.algorithms.evaluation import task_logits
from mamlpp_jax.algorithms.inner_optimizers import sgd
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.meta_loss import meta_loss
from mamlpp_jax.algorithms.outer_loop import fixed_tasks, init_state, make_train_step
from mamlpp_jax.models import init_model, make_body_and_head, make_forward
from mamlpp_jax.types import ModelVariables
from tests.helpers.small_learner import SIZE, STEPS, WAY, make_episodes, plan

STILL = optax.sgd(0.0)  # the weights stay, so that losses differ by what is drawn alone


class Dropping(nn.Module):
    """Dropout as users write it: without a word on when it drops."""

    @nn.compact
    def __call__(self, images):
        x = nn.Dropout(0.3)(images.reshape(len(images), -1))
        return nn.Dense(WAY, name="linear")(x)


class Told(nn.Module):
    """The layers' own switch, given by an argument of the backbone; attention drops too."""

    @nn.compact
    def __call__(self, images, deterministic=False):
        x = images.reshape(len(images), SIZE, SIZE)
        x = nn.MultiHeadDotProductAttention(2, dropout_rate=0.3, deterministic=deterministic)(x)
        x = nn.Dropout(0.3, deterministic=deterministic)(x.reshape(len(x), -1))
        return nn.Dense(WAY, name="linear")(x)


class Noisy(nn.Module):
    """A random stream of another name, in training alone."""

    @nn.compact
    def __call__(self, images, train=True):
        x = images.reshape(len(images), -1)
        if train:
            x = x + 0.3 * jax.random.normal(self.make_rng("weather"), x.shape)
        return nn.Dense(WAY, name="linear")(x)


class Still(nn.Module):
    """The three without what they draw."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(WAY, name="linear")(images.reshape(len(images), -1))


MODULES = [Dropping(), Told(), Noisy()]


def start(module):
    settings = {"body_and_head": make_body_and_head(module), "per_step_affine": False}
    learner = Learner(make_forward(module), sgd(0.1), STEPS, **settings)
    variables = init_model(module, jax.random.key(1), jnp.zeros((1, SIZE, SIZE, 1)))
    return learner, init_state(learner, variables, STILL)


def losses(module, key, steps=2, chunk=None):
    learner, state = start(module)
    episodes = make_episodes(tasks=2)
    key = None if key is None else jax.random.key(key)
    settings = {"tasks_per_step": 2, "tasks_per_chunk": chunk, "key": key}
    step = jax.jit(make_train_step(learner, STILL, fixed_tasks, **settings))
    found = []
    for _ in range(steps):
        state, metrics = step(state, episodes, plan())
        found.append(float(metrics.loss))
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_losses_depend_on_key_and_outer_step_and_not_on_chunks(module):
    without, one = losses(module, None), losses(module, 3)
    assert without[0] == without[1]
    assert len({without[0], *one}) == 3
    assert losses(module, 3, steps=1) == one[:1]
    assert losses(module, 4, steps=1)[0] not in one
    np.testing.assert_allclose(losses(module, 3, steps=1, chunk=1), one[:1], rtol=1e-5)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_evaluation_draws_nothing(module):
    learner, state = start(module)
    episode = jax.tree.map(lambda leaf: leaf[0], make_episodes(tasks=1))
    found = task_logits(learner, state.meta, {}, episode, every_step=True)
    images = episode.query.inputs
    if isinstance(module, Told):
        expected = module.apply({"params": state.meta.params}, images, deterministic=True)
    else:
        expected = Still().apply({"params": state.meta.params}, images)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-5)


def test_every_inner_step_and_pass_draws_its_own():
    """The keys of a task, seen by a backbone that says what it was called with."""
    seen = []

    def forward(params, norm, images, bn_stats=None, key=None):
        jax.debug.callback(lambda data: seen.append(tuple(data.tolist())), jax.random.key_data(key))
        return images.reshape(len(images), -1) @ params["w"], {}

    learner = Learner(forward, sgd(0.1), STEPS)
    state = init_state(learner, ModelVariables({"w": jnp.zeros((SIZE**2, WAY))}), STILL)
    keys = jax.random.split(jax.random.key(0), 2)
    episodes = make_episodes(tasks=2)._replace(key=keys)
    jax.block_until_ready(meta_loss(learner, state.meta, {}, episodes, plan()))
    jax.effects_barrier()
    assert len(set(seen)) == 2 * 2 * STEPS  # tasks, support and query, inner steps
