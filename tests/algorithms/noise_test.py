"""What is dropped depends on the key, the outer step, the task, the inner step and the pass, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mamlpp_jax.algorithms.inner_optimizers import sgd
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.meta_loss import meta_loss
from mamlpp_jax.algorithms.noise import with_keys
from mamlpp_jax.algorithms.outer_loop import fixed_tasks, init_state, make_train_step
from mamlpp_jax.models import init_model, make_forward, make_split
from mamlpp_jax.models.drop_block import DropBlock
from mamlpp_jax.models.forward import ModelVariables
from tests.helpers.small_learner import SIZE, STEPS, WAY, make_episodes, plan

STILL = optax.sgd(0.0)  # the weights stay, so that losses differ by what is dropped alone


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = DropBlock(0.3, 3)(images)
        return nn.Dense(WAY, name="linear")(x.reshape(len(x), -1))


def learner_of(**options):
    module = Dropping()
    options = {"split": make_split(module), "per_step_affine": False, **options}
    return Learner(make_forward(module), sgd(0.1), STEPS, **options)


def losses(key, steps=2, chunk=None):
    learner = learner_of()
    variables = init_model(Dropping(), jax.random.key(1), (SIZE, SIZE, 1))
    state = init_state(learner, variables, STILL)
    sample = fixed_tasks if key is None else with_keys(fixed_tasks, jax.random.key(key))
    episodes = make_episodes(tasks=2)
    step = jax.jit(make_train_step(learner, STILL, sample, tasks_per_step=2, tasks_per_chunk=chunk))
    found = []
    for _ in range(steps):
        state, metrics = step(state, episodes, plan())
        found.append(float(metrics.loss))
    return found


def test_losses_depend_on_key_and_outer_step_and_not_on_chunks():
    without, one = losses(None), losses(3)
    assert without[0] == without[1]
    assert len({without[0], *one}) == 3
    assert losses(3, steps=1) == one[:1]
    assert losses(4, steps=1)[0] not in one
    np.testing.assert_allclose(losses(3, steps=1, chunk=1), one[:1], rtol=1e-5)


def test_every_inner_step_and_pass_drops_its_own():
    """The masks of a task, seen by a backbone that says what it was called with."""
    seen = []

    def forward(params, norm, images, bn_stats=None, key=None):
        jax.debug.callback(lambda data: seen.append(tuple(data.tolist())), jax.random.key_data(key))
        return images.reshape(len(images), -1) @ params["w"], {}

    learner = Learner(forward, sgd(0.1), STEPS)
    state = init_state(learner, ModelVariables({"w": jnp.zeros((SIZE**2, WAY))}, {}, {}), STILL)
    keys = jax.random.split(jax.random.key(0), 2)
    episodes = make_episodes(tasks=2)._replace(key=keys)
    jax.block_until_ready(meta_loss(learner, state.meta, {}, episodes, plan()))
    jax.effects_barrier()
    assert len(set(seen)) == 2 * 2 * STEPS  # tasks, support and query, inner steps
