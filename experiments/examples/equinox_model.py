"""A backbone written in Equinox: three lines make it a `Forward`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import mamlpp_jax as maml

squared_error = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)


def task(key):
    x = jax.random.uniform(key, (2, 10, 1), minval=-3, maxval=3)
    return maml.Episode(*map(maml.Batch, x, jnp.sin(x + 3 * jax.random.uniform(key))))


def train(steps=300, key=jax.random.key(0)):
    """Squared error on the query set at every outer step."""
    params, rest = eqx.partition(eqx.nn.MLP(1, 1, 40, 2, key=key), eqx.is_array)
    net = lambda params, x: jax.vmap(eqx.combine(params, rest))(x)
    forward = lambda params, norm, x, bn_stats=None, key=None: (net(params, x), {})

    losses = dict.fromkeys(("inner_loss", "query_loss", "metric"), squared_error)
    learner, adam = maml.Learner(forward, maml.sgd(0.05), 3, **losses), optax.adam(3e-3)
    state = maml.init_state(learner, maml.ModelVariables(params), adam)
    sample = lambda keys, step, index: jax.vmap(task)(keys[step, index])
    step = maml.make_train_step(learner, adam, sample, tasks_per_step=16)
    keys = jax.random.split(key, (steps, 16))
    return jax.jit(maml.scan_steps(step, steps))(state, keys, maml.StepPlan())[1].metric


if __name__ == "__main__":
    print("squared error at the end:", train()[-20:].mean())
