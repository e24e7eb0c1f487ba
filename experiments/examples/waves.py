r"""Tasks and a network of your own in a configured run, with its checkpoints, exact resume and test.

python -m mamlpp_jax.main --config=quickstart --config.data.name=experiments.examples.waves:waves \
    --config.model.name=experiments.examples.waves:Net --config.model.filters=64
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mamlpp_jax import Batch, Episode, EpisodeSource


class Net(nn.Module):
    ways: int
    width: int = 32

    @nn.compact
    def __call__(self, series):
        return nn.Dense(self.ways, name="linear")(nn.relu(nn.Dense(self.width)(series)))


def waves(way=5, shot=1, query=1, length=16):
    """Classes are frequencies, each series has a phase of its own."""

    def batch(key, frequencies, count):
        labels = jnp.repeat(jnp.arange(way), count)
        phase = jax.random.uniform(key, (way * count, 1))
        time = jnp.linspace(0, 6, length)
        return Batch(jnp.sin(frequencies[labels][:, None] * time + phase), labels)

    def task(key):
        classes, support, asked = jax.random.split(key, 3)
        frequencies = jax.random.uniform(classes, (way,), minval=1, maxval=9)
        return Episode(batch(support, frequencies, shot), batch(asked, frequencies, query))

    def split(number):  # a task depends on the run's key, the split and its own index alone
        fold = jax.random.fold_in
        return jax.vmap(lambda key, i: task(fold(fold(key, number), i)), in_axes=(None, 0))

    example = jax.ShapeDtypeStruct((1, length), jnp.float32)
    return EpisodeSource(split(0), split(1), split(2), example)
