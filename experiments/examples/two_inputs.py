"""Regression from a dictionary of inputs: a signal, and a few numbers that describe it."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import mamlpp_jax as maml

squared_error = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)


class Two(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        joined = nn.Dense(32)(inputs["signal"]) + nn.Dense(32)(inputs["about"])
        return nn.Dense(1)(nn.relu(joined))


def task(key):
    k = jax.random.split(key, 3)
    weights = jax.random.normal(k[0], (8, 1)) / 3
    signal, about = jax.random.normal(k[1], (20, 8)), jax.random.normal(k[2], (20, 2))
    whole = maml.Batch({"signal": signal, "about": about}, signal @ weights + about[:, :1])
    return maml.Episode(*(jax.tree.map(lambda x, i=i: x[i::2], whole) for i in (0, 1)))


def train(steps=300, key=jax.random.key(0)):
    losses = dict.fromkeys(("inner_loss", "query_loss", "metric"), squared_error)
    learner = maml.Learner(maml.make_forward(Two()), maml.lslr(0.05), 3, **losses)
    tasks, adam = jax.vmap(jax.vmap(task))(jax.random.split(key, (steps, 8))), optax.adam(3e-3)
    variables = maml.init_model(Two(), key, jax.tree.map(lambda x: x[0, 0], tasks.support.inputs))
    sample = lambda tasks, step, index: jax.tree.map(lambda x: x[step, index], tasks)
    step = maml.make_train_step(learner, adam, sample, tasks_per_step=8)
    state = maml.init_state(learner, variables, adam)
    return jax.jit(maml.scan_steps(step, steps))(state, tasks, maml.StepPlan())[1].metric


if __name__ == "__main__":
    print("squared error at the end:", train()[-20:].mean())
