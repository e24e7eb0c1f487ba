"""A GRU on waves of unequal lengths, one to five support examples of each class: masks for both."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import mamlpp_jax as maml

MOST, LENGTH, LABELS = 5, 16, jnp.repeat(jnp.arange(2), 5)


class Gru(nn.Module):
    @nn.compact
    def __call__(self, x):
        rnn = nn.RNN(nn.GRUCell(16), return_carry=True)
        return nn.Dense(2)(rnn(x["values"][..., None], seq_lengths=x["length"])[0])


def masked(logits, there):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
    return jnp.sum(losses * there) / jnp.sum(there)


def task(key):
    k = jax.random.split(key, 4)
    angle = jax.random.uniform(k[0], (2,), minval=0.3, maxval=2.0)[LABELS, None] * jnp.arange(
        LENGTH
    )
    values = jnp.sin(angle + 6.3 * jax.random.uniform(k[1], (2, 10, 1)))
    inputs = {"values": values, "length": jax.random.randint(k[2], (2, 10), 8, LENGTH + 1)}
    few = jnp.arange(10) % MOST < jax.random.randint(k[3], (2,), 1, MOST + 1)[LABELS]
    whole = maml.Batch(inputs, jnp.stack([few, jnp.ones(10, bool)]))
    return maml.Episode(*(jax.tree.map(lambda x, i=i: x[i], whole) for i in (0, 1)))


def train(steps=200, key=jax.random.key(0)):
    losses, adam = dict.fromkeys(("inner_loss", "query_loss", "metric"), masked), optax.adam(3e-3)
    learner = maml.Learner(maml.make_forward(Gru()), maml.lslr(0.5), 3, **losses)
    tasks = jax.vmap(jax.vmap(task))(jax.random.split(key, (steps, 8)))
    variables = maml.init_model(Gru(), key, jax.tree.map(lambda x: x[0, 0], tasks.support.inputs))
    sample = lambda tasks, step, index: jax.tree.map(lambda x: x[step, index], tasks)
    step = maml.make_train_step(learner, adam, sample, tasks_per_step=8)
    state = maml.init_state(learner, variables, adam)
    return jax.jit(maml.scan_steps(step, steps))(state, tasks, maml.StepPlan())[1].metric


if __name__ == "__main__":
    print(f"query loss {train()[-20:].mean():.3f}, chance {jnp.log(2):.3f}")
