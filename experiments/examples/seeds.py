"""Three seeds trained together by `vmap` over their states and tasks."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import mamlpp_jax as maml

squared_error = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)

NET = nn.Sequential([nn.Dense(40), nn.relu, nn.Dense(40), nn.relu, nn.Dense(1)])


def sample_tasks(key, step, tasks):
    def task(index):
        k = jax.random.fold_in(jax.random.fold_in(key, step), index)
        x = jax.random.uniform(k, (2, 10, 1), minval=-3, maxval=3)
        return maml.Episode(*map(maml.Batch, x, jnp.sin(x + 3 * jax.random.uniform(k))))

    return jax.vmap(task)(tasks)


def train(steps=300, seeds=(0, 1, 2)):
    """Squared error at every outer step of every seed, [seeds, steps]."""
    losses = dict.fromkeys(("inner_loss", "query_loss", "metric"), squared_error)
    learner = maml.Learner(maml.make_forward(NET), maml.lslr(0.05), 3, **losses)
    adam = optax.adam(3e-3)
    step = maml.make_train_step(learner, adam, sample_tasks, tasks_per_step=8)

    def one(key):
        state = maml.init_state(learner, maml.init_model(NET, key, jnp.zeros((1, 1))), adam)
        return maml.scan_steps(step, steps)(state, key, maml.StepPlan())[1].metric

    return jax.jit(jax.vmap(one))(jax.vmap(jax.random.key)(jnp.array(seeds)))


if __name__ == "__main__":
    print("squared error of each seed at the end:", train()[:, -20:].mean(1))
