"""A backbone written in Flax NNX: three lines make it a `Forward`."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import mamlpp_jax as maml

squared_error = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.body, self.head = nnx.Linear(1, 40, rngs=rngs), nnx.Linear(40, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.body(x)))


def task(key):
    x = jax.random.uniform(key, (2, 10, 1), minval=-3, maxval=3)
    return maml.Episode(*map(maml.Batch, x, jnp.sin(x + 3 * jax.random.uniform(key))))


def train(steps=300, key=jax.random.key(0)):
    graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
    forward = lambda params, norm, x, bn_stats=None, key=None: (nnx.merge(graph, params)(x), {})
    variables = maml.ModelVariables(params)
    losses = dict.fromkeys(("inner_loss", "query_loss", "metric"), squared_error)
    learner, adam = maml.Learner(forward, maml.lslr(0.02), 3, **losses), optax.adam(3e-3)
    sample = lambda keys, step, index: jax.vmap(task)(keys[step, index])
    step = maml.make_train_step(learner, adam, sample, tasks_per_step=16)
    state, keys = maml.init_state(learner, variables, adam), jax.random.split(key, (steps, 16))
    return jax.jit(maml.scan_steps(step, steps))(state, keys, maml.StepPlan())[1].metric


if __name__ == "__main__":
    print("squared error at the end:", train()[-20:].mean())
