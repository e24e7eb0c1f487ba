"""Inner optimizers: optax transformations whose coefficients the outer loop may learn.

An inner optimizer is a pair of pure functions, in optax's manner. ``init(params, num_steps)`` makes the part
that is learned, every leaf with a leading axis S; ``transform(learned)`` turns one step's entry of it into the
`optax.GradientTransformation` of that inner step. Compose others by wrapping ``transform``:

    clipped = InnerOptimizer(
        base.init, lambda learned: optax.chain(optax.clip(1.0), base.transform(learned))
    )

`restricted` adapts some parameters only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mamlpp_jax.types import MetaParams, Params


class InnerOptimizer(NamedTuple):
    """What adapts a task's parameters.

    Attributes:
        init: (params, num_steps) -> learned pytree, leaves [S, ...]; empty when nothing is learned.
        transform: one step's entry of it -> the gradient transformation of that inner step. The
            transformation's state is started with the first entry and carried over the steps.
    """

    init: Callable[[Params, int], Any]
    transform: Callable[[Any], optax.GradientTransformation]


def sgd(learning_rate: float) -> InnerOptimizer:
    """Gradient descent with one fixed rate (MAML: Finn, Abbeel, Levine, ICML 2017)."""
    return InnerOptimizer(lambda params, num_steps: {}, lambda learned: optax.sgd(learning_rate))


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


def decay_rates(initial: float, strength: float) -> optax.GradientTransformation:
    """Draws learned rates back to where they started: weight decay towards `initial`, as a link of the outer optimizer.

    Adds ``strength * (rate - initial)`` to the updates of `MetaParams.inner`. Its place is behind Adam's scaling
    and before the outer rate (decoupled: Loshchilov & Hutter, ICLR 2019).
    """

    def update(updates: MetaParams, meta: MetaParams | None) -> MetaParams:
        assert meta is not None
        drawn = jax.tree.map(
            lambda u, rate: u + strength * (rate - initial), updates.inner, meta.inner
        )
        return updates._replace(inner=drawn)

    return optax.stateless(update)


def restricted(base: InnerOptimizer, adapts: Callable[[str], bool]) -> InnerOptimizer:
    """Adapts only some parameter tensors in the inner loop; the others stay at theta_0.

    Args:
        base: what adapts them; it learns nothing for the others.
        adapts: from a tensor's path, such as "conv0/kernel", to whether the inner loop changes it.
    """

    def chosen(params: Params) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: adapts(jax.tree_util.keystr(path, simple=True, separator="/")), params
        )

    def init(params: Params, num_steps: int) -> Any:
        kept = jax.tree.map(
            lambda is_chosen, leaf: leaf if is_chosen else optax.MaskedNode(),
            chosen(params),
            params,
        )
        return base.init(kept, num_steps)

    def transform(learned: Any) -> optax.GradientTransformation:
        return optax.partition({True: base.transform(learned), False: optax.set_to_zero()}, chosen)

    return InnerOptimizer(init, transform)


INNER_OPTIMIZERS = {"sgd": sgd, "lslr": lslr}


def make_inner_optimizer(name: str, learning_rate: float) -> InnerOptimizer:
    """The inner optimizer of a configuration.

    Raises:
        ValueError: the name is not one of `INNER_OPTIMIZERS`.
    """
    if name not in INNER_OPTIMIZERS:
        raise ValueError(
            f"inner optimizer {name!r} is unknown; choose one of {', '.join(INNER_OPTIMIZERS)}"
        )
    return INNER_OPTIMIZERS[name](learning_rate)
