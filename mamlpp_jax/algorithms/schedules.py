"""Schedules of training, as functions of the epoch (counted from 0) or the outer step."""

from __future__ import annotations

import numpy as np
import optax


def multi_step_weights(epoch: int, inner_steps: int, multi_step_epochs: int) -> np.ndarray:
    """Weights of the query losses after each inner step (multi-step loss, section 3 of the paper).

    Every step starts at 1/S. With E multi-step epochs the earlier ones fall linearly with the epoch e, from 0,
    ``max(1/S - e/(S*E), 0.03/S)``, and the last step takes what they lose.

    Returns:
        float64 [S], summing to 1.
    """
    earlier = max(1.0 - epoch / multi_step_epochs, 0.03) / inner_steps
    weights = np.full(inner_steps, earlier)
    weights[-1] = 1.0 - earlier * (inner_steps - 1)
    return weights


def anneal(epoch: int, epochs: float) -> float:
    """The share of the way to running statistics: from 0 to 1 along the first epochs (`StepPlan.anneal`)."""
    return min(1.0, epoch / epochs) if epochs else 1.0


def outer_learning_rate(
    learning_rate: float,
    final_learning_rate: float,
    total_steps: int,
    cosine: bool,
    held_steps: int = 1,
) -> optax.Schedule:
    """The rate of the outer optimizer per outer step: constant, or annealed along a cosine.

    The cosine (Loshchilov & Hutter, SGDR, 2017; one period, no restarts) ends with `final_learning_rate` at
    `total_steps`. A rate is held for `held_steps` outer steps: those of an epoch for a cosine per epoch.
    """
    if not cosine:
        return optax.constant_schedule(learning_rate)
    annealed = optax.cosine_decay_schedule(
        learning_rate, max(total_steps, 1), alpha=final_learning_rate / learning_rate
    )
    return lambda step: annealed(step // held_steps * held_steps)
