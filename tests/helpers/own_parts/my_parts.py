"""Parts of a user's own, as a file beside the command: a network of tokens, an inner optimizer, a loss and episodes."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import mamlpp_jax as maml

LENGTH, WORDS = 6, 12


class Tokens(nn.Module):
    """The mean of embeddings, and a head."""

    ways: int
    width: int = 8

    @nn.compact
    def __call__(self, tokens):
        features = nn.Embed(WORDS, self.width)(tokens).mean(1)
        return nn.Dense(self.ways, name="linear")(nn.Dropout(0.1)(jnp.tanh(features)))


def momentum(learning_rate, decay=0.5):
    """Descent with momentum and one learned rate."""

    def init(params, num_steps):
        return {"rate": jnp.full((num_steps,), learning_rate)}

    def transform(learned):
        return optax.sgd(learned["rate"], momentum=decay)

    return maml.InnerOptimizer(init, transform)


def weighted(start=1.0):
    """Cross-entropy with a learned weight."""
    return maml.InnerLoss(
        lambda params, num_steps: {"weight": jnp.full((num_steps,), start)},
        lambda learned, outputs, batch, params: (
            learned["weight"] * maml.cross_entropy(outputs, batch.targets)
        ),
    )


def episodes(way=3, shot=2, query=2, offset=0):
    """Each class of a task prefers words of its own."""

    def split(first):
        def sample(key, indices):
            return jax.vmap(lambda index: one(jax.random.fold_in(key, first + index)))(indices)

        return sample

    def one(key):
        order, support, query_key = jax.random.split(key, 3)
        words = jax.random.permutation(order, WORDS)[:way] + offset
        return maml.Episode(batch(support, words, shot), batch(query_key, words, query))

    def batch(key, words, count):
        labels = jnp.repeat(jnp.arange(way), count)
        noise = jax.random.randint(key, (way * count, LENGTH), 0, WORDS)
        own = jnp.arange(LENGTH) < LENGTH // 2
        return maml.Batch(jnp.where(own, words[labels][:, None], noise), labels)

    example = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
    return maml.EpisodeSource(split(0), split(10_000), split(20_000), example)


def raises(**options):
    """An own part that cannot be made."""
    raise RuntimeError(f"no luck with {options}")
