"""A GRU on waves of unequal lengths, one to five support examples of each class: masks for both."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import mamlpp_jax as maml

LABELS, error = jnp.repeat(jnp.arange(2), 5), optax.softmax_cross_entropy_with_integer_labels
masked = lambda logits, there: jnp.average(error(logits, LABELS), weights=there)


class Gru(nn.Module):
    @nn.compact
    def __call__(self, x):
        states = nn.RNN(nn.GRUCell(16))(x["values"], seq_lengths=x["length"])
        return nn.Dense(2)(states[jnp.arange(10), x["length"] - 1])


def task(key):
    k = jax.random.split(key, 4)
    frequency, phase = jax.random.uniform(k[0], (2, 1)), 6.3 * jax.random.uniform(k[1], (2, 10, 1))
    values = jnp.sin((0.3 + 2 * frequency)[LABELS] * jnp.arange(16) + phase)[..., None]
    few = jnp.arange(10) % 5 < jax.random.randint(k[2], (2,), 1, 6)[LABELS]
    inputs = ({"values": v, "length": jax.random.randint(k[3], (10,), 8, 17)} for v in values)
    return maml.Episode(*map(maml.Batch, inputs, (few, jnp.ones(10, bool))))


def train(steps=200, key=jax.random.key(0)):
    losses, adam = {"inner_loss": masked, "query_loss": masked, "metric": masked}, optax.adam(3e-3)
    learner = maml.Learner(maml.make_forward(Gru()), maml.lslr(0.5), 3, **losses)
    sample = lambda keys, step, index: jax.vmap(task)(keys[step, index])
    state = maml.init_state(learner, maml.init_model(Gru(), key, task(key).support.inputs), adam)
    run = maml.scan_steps(maml.make_train_step(learner, adam, sample, tasks_per_step=8), steps)
    return jax.jit(run)(state, jax.random.split(key, (steps, 8)), maml.StepPlan())[1].metric


if __name__ == "__main__":
    print(f"query loss {train()[-20:].mean():.3f}, chance {jnp.log(2):.3f}")
