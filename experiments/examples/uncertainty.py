"""Sinusoids whose noise grows to the right: the network puts out mean and variance, and learns both of a task."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import mamlpp_jax as maml

POINTS, RATES = 10, maml.lslr(0.02)
# A step that makes a variance small would make the next gradient huge.
CLIPPED = RATES._replace(transform=lambda r: optax.chain(optax.clip(1.0), RATES.transform(r)))


class Regressor(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.tanh(nn.Dense(40)(x))
        return {"mean": nn.Dense(1)(x), "variance": 1e-3 + nn.softplus(nn.Dense(1)(x))}


def surprise(outputs, y):
    """The negative log likelihood of a normal distribution, without its constant, in nats per point."""
    error = jnp.square(outputs["mean"] - y) / outputs["variance"]
    return jnp.mean(error + jnp.log(outputs["variance"])) / 2


def task(key):
    k = jax.random.split(key, 3)
    amplitude, phase = jax.random.uniform(k[0], (2,), minval=0.5, maxval=3.0)
    x = jax.random.uniform(k[1], (2, POINTS, 1), minval=-3.0, maxval=3.0)
    noise = 0.05 * jnp.exp(0.5 * x) * jax.random.normal(k[2], x.shape)
    return maml.Episode(*map(maml.Batch, x, amplitude * jnp.sin(x - phase) + noise))


def train(steps=3000, key=jax.random.key(0)):
    """The surprise on the query set at every outer step."""
    losses, adam = (
        {"inner_loss": surprise, "query_loss": surprise, "metric": surprise},
        optax.adam(3e-3),
    )
    learner = maml.Learner(maml.make_forward(Regressor()), CLIPPED, 3, **losses)
    sample = lambda keys, step, index: jax.vmap(task)(keys[step, index])
    state = maml.init_state(learner, maml.init_model(Regressor(), key, jnp.zeros((1, 1))), adam)
    run = maml.scan_steps(maml.make_train_step(learner, adam, sample, tasks_per_step=8), steps)
    return jax.jit(run)(state, jax.random.split(key, (steps, 8)), maml.StepPlan(order=1))[1].metric


if __name__ == "__main__":
    print(f"nats per point: first {train()[:20].mean():.2f}, last {train()[-20:].mean():.2f}")
