"""Inner optimizers: optax transformations whose coefficients the outer loop may learn.

An inner optimizer is a pair of pure functions, in optax's manner. ``init(params, num_steps)`` makes the part
that is learned, every leaf with a leading axis S; ``transform(row)`` turns one row of it into the
`optax.GradientTransformation` of that inner step. Compose others by wrapping ``transform``:

    clipped = InnerOptimizer(base.init, lambda row: optax.chain(optax.clip(1.0), base.transform(row)))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mamlpp_jax.types import Params

NAMES = ("sgd", "lslr")


class InnerOptimizer(NamedTuple):
    """What adapts a task's parameters.

    Attributes:
        init: (params, num_steps) -> learned pytree, leaves [S, ...]; empty when nothing is learned.
        transform: one row of it -> the gradient transformation of that inner step. The transformation's
            state is started with row 0 and carried over the steps.
    """

    init: Callable[[Params, int], Any]
    transform: Callable[[Any], optax.GradientTransformation]


def sgd(learning_rate: float) -> InnerOptimizer:
    """Gradient descent with one fixed rate (MAML: Finn, Abbeel, Levine, ICML 2017)."""
    return InnerOptimizer(lambda params, num_steps: {}, lambda row: optax.sgd(learning_rate))


def lslr(learning_rate: float) -> InnerOptimizer:
    """One learned rate per parameter tensor and inner step (LSLR, section 4 of the paper).

    Rates start at `learning_rate`, are free to become negative and add one number per tensor and step.
    """

    def init(params: Params, num_steps: int) -> Any:
        return jax.tree.map(lambda p: jnp.full((num_steps,), learning_rate, p.dtype), params)

    def transform(rates: Any) -> optax.GradientTransformation:
        def scale(updates: Any, _: Params | None) -> Any:
            return jax.tree.map(lambda rate, g: -rate * g, rates, updates)

        return optax.stateless(scale)

    return InnerOptimizer(init, transform)


def make_inner_optimizer(name: str, learning_rate: float) -> InnerOptimizer:
    """The inner optimizer of a configuration.

    Raises:
        ValueError: the name is not one of `NAMES`.
    """
    makers = {"sgd": sgd, "lslr": lslr}
    if name not in makers:
        raise ValueError(f"inner optimizer {name!r} is unknown; choose one of {', '.join(NAMES)}")
    return makers[name](learning_rate)
