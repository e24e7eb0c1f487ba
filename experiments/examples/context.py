"""A context vector alone is adapted, the network is shared by all tasks (the idea of CAVIA)."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import mamlpp_jax as maml

squared_error = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)


class Conditioned(nn.Module):
    @nn.compact
    def __call__(self, x):
        context = self.param("context", nn.initializers.zeros, (5,))
        x = jnp.concatenate([x, jnp.broadcast_to(context, (len(x), 5))], -1)
        return nn.Dense(1)(nn.relu(nn.Dense(40)(nn.relu(nn.Dense(40)(x)))))


def task(key):
    x = jax.random.uniform(key, (2, 10, 1), minval=-5, maxval=5)
    amplitude, phase = jax.random.uniform(jax.random.fold_in(key, 1), (2,), minval=0.1, maxval=3)
    return maml.Episode(*map(maml.Batch, x, amplitude * jnp.sin(x - phase)))


def train(steps=1000, key=jax.random.key(0)):
    losses = dict.fromkeys(("inner_loss", "query_loss", "metric"), squared_error)
    inner, adam = maml.masked(maml.sgd(1.0), lambda path: path == "context"), optax.adam(1e-3)
    learner = maml.Learner(maml.make_forward(Conditioned()), inner, 2, **losses)
    state = maml.init_state(learner, maml.init_model(Conditioned(), key, jnp.zeros((1, 1))), adam)
    sample = lambda keys, step, index: jax.vmap(task)(keys[step, index])
    step = maml.make_train_step(learner, adam, sample, tasks_per_step=25)
    keys = jax.random.split(key, (steps, 25))
    state, metrics = jax.jit(maml.scan_steps(step, steps))(state, keys, maml.StepPlan())
    return state.meta, metrics.metric


if __name__ == "__main__":
    print("squared error at the end:", train()[1][-20:].mean())
