"""Learning classes from a support set and classifying images, for a model of several members."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import lax, numpy as jnp

from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.losses import term_of_queries
from mamlpp_jax.algorithms.task import adapt_to, at_step, make_task
from mamlpp_jax.data.episodes import normalize
from mamlpp_jax.errors import ModelError
from mamlpp_jax.inference.preprocessing import ImageFormat
from mamlpp_jax.models.head import with_ways
from mamlpp_jax.types import Array, Batch, Episode, MetaParams, NormParams, Params, RunningStats


class Adapted(NamedTuple):
    """A model that has learned classes; leaves [E, ...] over its members."""

    params: Params  # theta_S
    norm: NormParams  # batch-norm scale and bias of the last inner step
    bn_stats: Any  # what normalises queries; None for the query batch itself


@partial(jax.jit, static_argnums=(0, 1, 2))
def adapt_members(
    learner: Learner,
    image_format: ImageFormat | None,
    way: int,
    meta: MetaParams,
    batch_stats: RunningStats,
    inputs: Any,
    targets: Any,
) -> Adapted:
    """Runs the inner loop of every member, leaves [E, ...], on images, uint8 [N, H, W, C], of K ways.

    The learner's inner steps and statistics may differ from training. Without an image format inputs, leaves [N, ...],
    are ready. Labels are int32 [N], 0..K-1; classes may have different numbers of examples.

    Raises:
        ModelError: the inner loss reads queries, of which there are none yet.
    """
    if term_of_queries(learner.inner_loss):
        raise ModelError(
            "this model's inner loop reads the unlabelled queries of a task (config.inner.loss), so it cannot learn "
            "classes before it is shown them; test it by --mode=evaluate, or train its inductive form, such as "
            "method=metal_inductive for metal."
        )
    support = Batch(_ready(image_format, inputs), targets)
    episode = Episode(support, support)  # no query pass is made

    def one(member: tuple[MetaParams, RunningStats]) -> Adapted:
        fitted, stats = with_ways(member[0], way), member[1]
        task = make_task(learner, fitted, stats, episode)
        theta, _ = adapt_to(learner, task, order=1, unroll=1)
        last = at_step(task.per_step, -1)
        return Adapted(theta, last.norm, task.query_moments(theta, last))

    return lax.map(one, (meta, batch_stats))


class Outputs(NamedTuple):
    """The output of an adapted model for images.

    Attributes:
        log_probabilities: of the classes, float32 [M, K].
        embeddings: features under the adapted weights, the members' side by side, float32 [M, E * D].
    """

    log_probabilities: Any
    embeddings: Any


@partial(jax.jit, static_argnums=(0, 1))
def query(
    learner: Learner, image_format: ImageFormat, temperature: float, adapted: Adapted, images: Array
) -> Outputs:
    """The outputs of uint8 images [M, H, W, C]; logits are divided by the temperature."""
    pixels = _ready(image_format, images)
    backbone = learner.body_and_head
    assert backbone is not None

    def one(member: Adapted) -> tuple[Array, Array]:
        features = backbone.body(member.params, member.norm, pixels, member.bn_stats)[0]
        return backbone.head(member.params, features), features

    logits, features = lax.map(one, adapted)
    mean = jnp.mean(logits, axis=0).astype(jnp.float32)
    embeddings = jnp.concatenate(list(features), axis=-1).astype(jnp.float32)
    return Outputs(jax.nn.log_softmax(mean / temperature), embeddings)


def probabilities(
    learner: Learner, image_format: ImageFormat, temperature: float, adapted: Adapted, images: Array
) -> Array:
    """Probabilities of the classes, [M, K], of uint8 images [M, H, W, C], by the backbone as a whole; for exports."""
    logits = query_outputs(learner, image_format, adapted, images).astype(jnp.float32)
    return jax.nn.softmax(logits / temperature)


@partial(jax.jit, static_argnums=(0, 1))
def query_outputs(
    learner: Learner, image_format: ImageFormat | None, adapted: Adapted, inputs: Any
) -> Any:
    """Outputs of the backbone, the mean over the members, of inputs [M, ...]; see `adapt_members`."""
    ready = _ready(image_format, inputs)

    def one(member: Adapted) -> Any:
        return learner.forward(member.params, member.norm, ready, member.bn_stats)[0]

    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), lax.map(one, adapted))


def _ready(image_format: ImageFormat | None, inputs: Any) -> Any:
    """Inputs as the backbone takes them."""
    if image_format is None:
        return inputs
    return normalize(inputs, image_format.mean, image_format.std)
