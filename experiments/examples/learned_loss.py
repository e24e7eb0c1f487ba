"""An inner loss with learned weights of two errors; the outer loss reads the first, the second is noise."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import mamlpp_jax as maml

NET = nn.Sequential([nn.Dense(32), nn.tanh, nn.Dense(2)])


def weighted(learned, outputs, batch, theta):
    return jnp.sum(jax.nn.softplus(learned["weight"]) * (outputs - batch.targets) ** 2, -1).mean()


def first_target(outputs, targets):
    return jnp.mean((outputs[:, 0] - targets[:, 0]) ** 2)


def task(key):
    x, noise = jnp.split(jax.random.normal(key, (2, 10, 4)), [3], -1)
    clean = jnp.sin(x @ jax.random.normal(jax.random.fold_in(key, 1), (3, 1)))
    return maml.Episode(*map(maml.Batch, x, jnp.concatenate([clean, 3 * noise], -1)))


def train(steps=300, key=jax.random.key(0)):
    inner = maml.InnerLoss(lambda params, steps: {"weight": jnp.zeros((steps, 2))}, weighted)
    losses, adam = dict.fromkeys(("query_loss", "metric"), first_target), optax.adam(1e-2)
    learner = maml.Learner(maml.make_forward(NET), maml.sgd(0.1), 3, inner_loss=inner, **losses)
    state = maml.init_state(learner, maml.init_model(NET, key, jnp.zeros((1, 3))), adam)
    sample = lambda keys, step, index: jax.vmap(task)(keys[step, index])
    step = maml.make_train_step(learner, adam, sample, tasks_per_step=16)
    keys = jax.random.split(key, (steps, 16))
    state, metrics = jax.jit(maml.scan_steps(step, steps))(state, keys, maml.StepPlan())
    return jax.nn.softplus(state.meta.inner_loss["weight"]), metrics.metric


if __name__ == "__main__":
    print("weights of the two errors by inner step:", train()[0])
