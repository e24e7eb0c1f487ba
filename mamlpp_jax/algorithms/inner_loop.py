"""The inner loop: adapting weights by a `lax.scan` over gradient steps.

Inner step i starts from theta_i and uses entry i of everything that is per step:

    1. loss and its gradient at theta_i;
    2. theta_{i+1} = theta_i - inner_lr[i] * gradient, through the optax transformation of step i;
    3. whatever the caller wants of theta_{i+1} and step i (`after_step`: a query loss, logits, nothing).

"How to train your MAML" (Antoniou, Edwards, Storkey, ICLR 2019), equations 1 and 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import optax
from jax import lax

from mamlpp_jax.algorithms.inner_optimizers import InnerOptimizer
from mamlpp_jax.types import Array, Params


class HasInner(Protocol):
    """The values of an inner step; a pytree."""

    @property
    def inner(self) -> Any:
        """The inner optimizer's learned part."""


Values = TypeVar("Values", bound=HasInner)


class Trace(NamedTuple):
    """By-products of the inner loop, one entry per inner step.

    Attributes:
        loss: [S], at theta_0 .. theta_{S-1}.
        aux: by-products of the loss, leaves [S, ...], without derivatives.
        after: results of `after_step`, leaves [S, ...]; None without it.

    Example:
        >>> theta, trace = maml.adapt_to(
        ...     learner, maml.make_task(learner, state.meta, {}, episode), order=1
        ... )
        >>> trace.loss.shape
        (2,)
    """

    loss: Array
    aux: Any
    after: Any


def default_unroll() -> int:
    """The inner steps per iteration of the compiled loop: 5, or 1 where JAX is to compile quickly.

    That is where `jax_disable_most_optimizations` is set, as in this project's tests.
    """
    return 1 if jax.config.values.get("jax_disable_most_optimizations") else 5


def adapt(
    loss: Callable[[Params, Values], tuple[Array, Any]],
    optimizer: InnerOptimizer,
    theta: Params,
    per_step: Values,
    *,
    order: int = 2,
    after_step: Callable[[Params, Values], Any] | None = None,
    unroll: int | None = None,
    remat: bool = False,
) -> tuple[Params, Trace]:
    """Takes optimizer steps on a loss, one for each entry of `per_step`.

    Args:
        loss: (theta, one step's values) -> (scalar, by-products).
        optimizer: its transformation of each step is made of the step's `values.inner`.
        theta: theta_0.
        per_step: values of the steps, leaves [S, ...], such as `task.PerStep`.
        order: 2 differentiates through the steps; 1 stops gradients at the gradient of the loss.
        after_step: called with theta_{i+1} and the values of step i.
        unroll: steps per iteration of the compiled loop; None for `default_unroll()`.
        remat: compute each step again in the backward pass.

    Returns:
        theta_S and the trace.

    Example:
        >>> per_step = maml.PerStep(jnp.arange(3), norm={}, inner={}, inner_loss={}, bn_stats={})
        >>> theta, trace = maml.adapt(
        ...     lambda theta, step: (theta**2, None), maml.sgd(0.25), jnp.array(1.0), per_step
        ... )
        >>> float(theta), trace.loss.tolist()
        (0.125, [1.0, 0.25, 0.0625])
    """

    def step(carry: tuple[Params, Any], values: Values) -> tuple[tuple[Params, Any], Trace]:
        theta, opt_state = carry
        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(theta, values)
        if order == 1:
            gradient = lax.stop_gradient(gradient)
        updates, opt_state = optimizer.transform(values.inner).update(gradient, opt_state, theta)
        theta = optax.apply_updates(theta, updates)
        after = after_step(theta, values) if after_step is not None else None
        return (theta, opt_state), Trace(value, lax.stop_gradient(aux), after)

    steps = jax.tree.leaves(per_step)[0].shape[0]
    first = optimizer.transform(jax.tree.map(lambda leaf: leaf[0], per_step.inner))
    (theta, _), trace = lax.scan(
        jax.checkpoint(step, prevent_cse=False) if remat else step,
        (theta, first.init(theta)),
        per_step,
        unroll=1 if remat else min(steps, unroll or default_unroll()),
    )
    return theta, trace
