"""The exponential moving average of the meta-parameters, kept beside the outer optimizer's state."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mamlpp_jax.types import Array, MetaParams, MetaState


class AverageState(NamedTuple):
    """State of `average_weights`."""

    updates: Array  # int32 [], so far
    average: MetaParams  # of the meta-parameters after each of them


def average_weights(decay: float) -> optax.GradientTransformation:
    """Keeps an average of what the updates make of the meta-parameters; the updates pass unchanged.

    ``average = d * average + (1 - d) * meta`` after update t = 1, 2, ..., with ``d = min(decay, t / (t + 9))``, so
    that the first weights do not linger. It is the last link of a chain.

    Args:
        decay: of the average, below 1.

    References:
        Polyak, Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    """

    def init(meta: MetaParams) -> AverageState:
        # A copy: the state is donated to the outer step, and no buffer may be donated twice.
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, meta))

    def update(
        updates: MetaParams, state: AverageState, meta: MetaParams
    ) -> tuple[MetaParams, AverageState]:
        t = state.updates + 1
        step_size = 1 - jnp.minimum(decay, t / (t + 9))
        new = optax.apply_updates(meta, updates)
        return updates, AverageState(t, optax.incremental_update(new, state.average, step_size))

    return optax.GradientTransformation(init, update)


def evaluated_meta(state: MetaState) -> MetaParams:
    """The meta-parameters of validation, tests and predictions: the average where there is one."""
    return optax.tree.get(state.opt_state, "average", state.meta)
