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
        states = nn.RNN(nn.GRUCell(16), return_carry=True)
        return nn.Dense(2)(states(x["values"], seq_lengths=x["length"])[0])


def task(key):
    k = jax.random.split(key, 4)
    angle = jax.random.uniform(k[0], (2, 1), minval=0.3, maxval=2.0)[LABELS] * jnp.arange(16)
    values = jnp.sin(angle + 6.3 * jax.random.uniform(k[1], (2, 10, 1)))[..., None]
    few = jnp.arange(10) % 5 < jax.random.randint(k[2], (2,), 1, 6)[LABELS]
    inputs = ({"values": v, "length": jax.random.randint(k[3], (10,), 8, 17)} for v in values)
    return maml.Episode(*map(maml.Batch, inputs, (few, jnp.ones(10, bool))))


def train(steps=200, key=jax.random.key(0)):
    losses, adam = dict.fromkeys(("inner_loss", "query_loss", "metric"), masked), optax.adam(3e-3)
    learner = maml.Learner(maml.make_forward(Gru()), maml.lslr(0.5), 3, **losses)
    tasks = jax.vmap(jax.vmap(task))(jax.random.split(key, (steps, 8)))
    sample = lambda tasks, step, index: jax.tree.map(lambda x: x[step, index], tasks)
    variables = maml.init_model(Gru(), key, sample(tasks, 0, 0).support.inputs)
    step = maml.make_train_step(learner, adam, sample, tasks_per_step=8)
    run, state = jax.jit(maml.scan_steps(step, steps)), maml.init_state(learner, variables, adam)
    return run(state, tasks, maml.StepPlan())[1].metric


if __name__ == "__main__":
    print(f"query loss {train()[-20:].mean():.3f}, chance {jnp.log(2):.3f}")
