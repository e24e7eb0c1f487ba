"""Learning classes from a support set and classifying images, for a model of several members."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import lax, numpy as jnp

from mamlpp_jax.algorithms.inner_loop import adapt, query_statistics
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.per_step import at_step, lay_out
from mamlpp_jax.data.episodes import normalize
from mamlpp_jax.inference.preprocessing import ImageFormat
from mamlpp_jax.models.head import with_ways
from mamlpp_jax.types import Array, Episode, MetaParams, NormParams, Params, RunningStats


class Adapted(NamedTuple):
    """A model that has learned classes; leaves [E, ...] over its members.

    Attributes:
        params: theta_S.
        norm: batch-norm scale and bias of the last inner step.
        bn_stats: what normalises queries; None for the query batch itself.
    """

    params: Params
    norm: NormParams
    bn_stats: Any


@partial(jax.jit, static_argnums=(0, 1, 2))
def learn_classes(
    learner: Learner,
    image_format: ImageFormat,
    way: int,
    meta: MetaParams,
    batch_stats: RunningStats,
    images: Array,
    labels: Array,
) -> Adapted:
    """Runs the inner loop of every member.

    Args:
        learner: for K ways; its inner steps and statistics may differ from training.
        image_format: says how images are normalised.
        way: K, classes.
        meta: leaves [E, ...].
        batch_stats: leaves [E, ...].
        images: uint8 [N, H, W, C].
        labels: int32 [N], 0..K-1; classes may have different numbers of images.
    """
    pixels = normalize(images, image_format.mean, image_format.std)
    episode = Episode(pixels, labels, pixels[:0], labels[:0])

    def one(member: tuple[MetaParams, RunningStats]) -> Adapted:
        fitted, stats = with_ways(member[0], way), member[1]
        per_step = lay_out(learner, fitted, stats)
        params, _ = adapt(learner, fitted.params, per_step, episode, order=1, differentiated=False)
        last = at_step(per_step, -1)
        return Adapted(params, last.norm, query_statistics(learner, params, last, pixels))

    return lax.map(one, (meta, batch_stats))


@partial(jax.jit, static_argnums=(0, 1))
def class_probabilities(
    learner: Learner, image_format: ImageFormat, adapted: Adapted, images: Array
) -> Array:
    """Probabilities of the classes, [M, K], of uint8 images [M, H, W, C]."""
    pixels = normalize(images, image_format.mean, image_format.std)

    def one(member: Adapted) -> Array:
        return learner.forward(member.params, member.norm, pixels, member.bn_stats)[0]

    return jax.nn.softmax(jnp.mean(lax.map(one, adapted), axis=0).astype(jnp.float32))
