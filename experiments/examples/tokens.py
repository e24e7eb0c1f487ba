"""Classes of token sequences from four examples each, with Dropout in training."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import mamlpp_jax as maml

WAY, SHOT, LENGTH, WORDS = 3, 4, 12, 40


class Reader(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.relu(nn.Dense(32)(nn.Embed(WORDS, 32)(tokens).mean(1)))
        return nn.Dense(WAY)(nn.Dropout(0.1)(x))


def task(key):
    words, *draws = jax.random.split(key, 3)
    labels = jnp.repeat(jnp.arange(WAY), SHOT)
    logits = 2 * jax.random.normal(words, (WAY, 1, WORDS))[labels]
    tokens = (jax.random.categorical(d, logits, shape=(len(labels), LENGTH)) for d in draws)
    return maml.Episode(*(maml.Batch(x, labels) for x in tokens))


def train(steps=300, key=jax.random.key(0)):
    """Accuracy on the query set at every outer step."""
    learner, adam = maml.Learner(maml.make_forward(Reader()), maml.lslr(0.4), 3), optax.adam(3e-3)
    variables = maml.init_model(Reader(), key, jnp.zeros((1, LENGTH), jnp.int32))
    keys = jax.random.split(key, (steps, 8))
    sample = lambda keys, step, index: jax.vmap(task)(keys[step, index])
    step = maml.make_train_step(learner, adam, sample, tasks_per_step=8, key=key)
    state = maml.init_state(learner, variables, adam)
    return jax.jit(maml.scan_steps(step, steps))(state, keys, maml.StepPlan())[1].metric


if __name__ == "__main__":
    print(f"accuracy {train()[-20:].mean():.3f}, chance {1 / WAY:.3f}")
