"""A causal byte model that learns each file, chunk by chunk, while it predicts it (TTT-E2E, arXiv 2512.23675).

The outer loss is the mean of the losses on each chunk before it is learned. Prints bits per byte on files kept apart.
"""

import pathlib
import sysconfig

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import mamlpp_jax as maml

WIDTH, CHUNKS, LENGTH, FILES = 96, 8, 128, 4


class ByteModel(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x, mask = nn.Embed(256, WIDTH)(tokens), nn.make_causal_mask(tokens)
        x += nn.Embed(LENGTH, WIDTH)(jnp.arange(LENGTH))
        for block in range(2):
            x += nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x), mask=mask)
            y = nn.relu(nn.Dense(4 * WIDTH, name=f"up{block}")(nn.LayerNorm()(x)))
            x += nn.Dense(WIDTH, name=f"down{block}")(y)
        return nn.Dense(256)(nn.LayerNorm()(x))


FORWARD = maml.make_forward(ByteModel())
ADAPTED = maml.masked(maml.lslr(0.1), lambda path: path.startswith(("up", "down")))


def files(apart):
    """Chunks, uint8 [n, CHUNKS, 1, LENGTH + 1], of every tenth file, which are kept apart, or of the others."""
    paths = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))
    read = [p.read_bytes() for i, p in enumerate(paths) if (i % 10 == 0) == apart]
    windows, size = np.add.outer(LENGTH * np.arange(CHUNKS), np.arange(LENGTH + 1)), CHUNKS * LENGTH
    starts = [(t, start) for t in read for start in range(0, len(t) - size, size)]
    return np.stack([np.frombuffer(t, np.uint8)[a + windows][:, None] for t, a in starts])


def losses(meta, chunks, learns, order=1):
    """Nats per byte of each chunk, [CHUNKS], before it is learned; with `learns` 0 none is."""
    tokens, rates = chunks.astype(jnp.int32), jax.tree.map(lambda rate: learns * rate, meta.inner)
    batches = maml.Batch(tokens[..., :-1], tokens[..., 1:])
    steps = maml.PerStep(jnp.arange(CHUNKS), {}, rates, {}, {}, support=batches)

    def loss(theta, step):
        (logits,), _ = FORWARD(theta, {}, step.support.inputs)
        return maml.cross_entropy(logits, step.support.targets[0]), None

    return maml.adapt(loss, ADAPTED, meta.params, steps, order=order, remat=order == 2)[1].loss


def train(steps=2000, learns=1.0, order=1, key=jax.random.key(0)):
    """Weights and rates, meta-trained or with `learns` 0 plainly, and the loss of every outer step."""
    data, adam = jnp.asarray(files(False)), optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    params = maml.init_model(ByteModel(), key, jnp.zeros((1, LENGTH), jnp.int32)).params
    meta = maml.MetaParams(params, {}, ADAPTED.init(params, CHUNKS))

    def step(state, key):
        one = jax.value_and_grad(lambda meta, file: losses(meta, file, learns, order).mean())
        each = jax.vmap(one, (None, 0))(state[0], jax.random.choice(key, data, (FILES,)))
        loss, gradient = jax.tree.map(lambda leaf: leaf.mean(0), each)
        updates, moments = adam.update(gradient, state[1])
        return (optax.apply_updates(state[0], updates), moments), loss

    run = jax.jit(lambda keys: jax.lax.scan(step, (meta, adam.init(meta)), keys))
    (meta, _), trace = run(jax.random.split(key, steps))
    return meta, trace


if __name__ == "__main__":
    for trained, order, learns in ((0.0, 1, 0.0), (0.0, 1, 1.0), (1.0, 1, 1.0), (1.0, 2, 1.0)):
        meta = train(2000, trained, order)[0]
        bits = jax.jit(jax.vmap(losses, (None, 0, None)))(meta, files(True), learns) / jnp.log(2)
        print(f"meta-trained {trained:.0f}, order {order}, learning {learns:.0f}: {bits.mean(0)}")
