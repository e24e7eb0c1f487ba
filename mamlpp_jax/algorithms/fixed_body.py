"""Features computed once per task, for inner loops that leave the body of the backbone as it is (ANIL).

Where the inner loop adapts the head alone, and neither scale and bias nor the statistics of batch norm change from
step to step, the body computes the same in every step. Then the inner loop runs on its features: it needs nothing but
a learner whose backbone is the head and an episode whose "images" are features. The results are those of the
whole backbone; the outer gradient reaches the body through the features.

References:
    Raghu, Raghu, Bengio, Vinyals, "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML",
    ICLR 2020, section 4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from mamlpp_jax.algorithms.inner_loop import query_pass, support_pass
from mamlpp_jax.algorithms.learner import Learner
from mamlpp_jax.algorithms.per_step import PerStep, at_step
from mamlpp_jax.models.head import HEAD
from mamlpp_jax.types import Array, Episode, Moments, NormParams, Params


class Features(NamedTuple):
    """What the body makes of the images of one pass.

    Attributes:
        values: [N, D].
        moments: batch moments of the pass, leaves [F].
    """

    values: Array
    moments: Moments


def on_features(
    learner: Learner, params: Params, per_step: PerStep, episode: Episode
) -> tuple[Learner, Episode]:
    """A learner and an episode for the inner loop of one task: of features where the body is fixed.

    Args:
        learner: of the whole backbone.
        params: theta_0.
        per_step: leaves [S, ...].
        episode: of images.

    Returns:
        The arguments themselves where an inner step may change the body or there is no `learner.split`.
    """
    drops = per_step.key is not None  # other units in every step
    if learner.split is None or drops or not _body_is_fixed(learner, params):
        return learner, episode
    head, body = learner.split.head, learner._replace(forward=learner.split.body)
    first = at_step(per_step, 0)  # all entries are alike, as far as the body goes
    # The loops hand "images" on to the backbone without a look at them.
    support: Any = Features(*support_pass(body, params, first, episode.support_images))
    query: Any = Features(*query_pass(body, params, first, episode))

    def forward(
        params: Params,
        norm: NormParams,
        images: Any,
        bn_stats: Moments | None = None,
        key: Array | None = None,
    ) -> tuple[Array, Moments]:
        del norm, bn_stats, key  # the features are normalised, and nothing is dropped
        return head(params, images.values), images.moments

    # In the mode `batch` no pass asks for another one's statistics.
    return learner._replace(forward=forward, bn_mode="batch"), episode._replace(
        support_images=support, query_images=query
    )


def _body_is_fixed(learner: Learner, params: Params) -> bool:
    statistics_change = learner.bn_mode in ("running", "renorm") and learner.per_step_statistics
    if learner.per_step_affine or statistics_change:
        return False
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    return not any(
        learner.inner_optimizer.adapts(path) for path in paths if not path.startswith(f"{HEAD}/")
    )
