"""Inner optimizers: optax transformations whose coefficients the outer loop may learn.

An inner optimizer is a pair of pure functions, in optax's manner. ``init(params, num_steps)`` makes the part
that is learned, every leaf with a leading axis: S, an entry per inner step, or 1, an entry that all steps share.
``transform(learned)`` turns one step's entry of it into the `optax.GradientTransformation` of that inner step, which
gets the task's weights beside their gradients. Compose others by wrapping ``transform``:

    clipped = InnerOptimizer(
        base.init, lambda learned: optax.chain(optax.clip(1.0), base.transform(learned))
    )

`masked` adapts some parameters only.

Any optax transformation can be used; its state is carried over the inner steps. Second order differentiates through it,
and one that divides by a root or a norm has no derivative where the gradient is zero, as it is behind a dead unit. The
meta-gradient then is NaN with

    adam, adamw, radam without `eps_root`, lamb, rmsprop with `eps_in_sqrt=False`   where any element is zero
    clip_by_block_rms, adaptive_grad_clip                                           where a whole tensor is zero
    clip_by_global_norm, normalize_by_update_norm                                   where all gradients are zero

`away_from_zero` in front of them guards against it; so does ``eps_root=1e-8`` in the three that have it. First order
differentiates none of them.

    adam = InnerOptimizer(
        lambda params, num_steps: {}, lambda learned: optax.chain(away_from_zero(), optax.adam(1e-2))
    )
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mamlpp_jax.types import Params
from mamlpp_jax.utils.trees import named_leaves

_ALFA_DECAY = 5e-4  # the authors' code; times the rate


class InnerOptimizer(NamedTuple):
    """The rule that adapts a task's parameters, with a learned part.

    Attributes:
        init: (params, num_steps) -> learned pytree, leaves [S, ...], or [1, ...] where all steps share an
            entry; empty when nothing is learned.
        transform: one step's entry of it -> the gradient transformation of that inner step. The
            transformation's state is started with the first entry and carried over the steps.
        rates: learned pytree -> the part of it that holds learning rates, which figures show.
        adapts: path of a tensor, such as "conv0/kernel" -> whether an inner step may change it.

    Example:
        >>> momentum = maml.InnerOptimizer(
        ...     lambda params, num_steps: {}, lambda learned: optax.sgd(0.1, momentum=0.9)
        ... )
        >>> momentum.adapts("conv0/kernel")
        True
    """

    init: Callable[[Params, int], Any]
    transform: Callable[[Any], optax.GradientTransformation]
    rates: Callable[[Any], Any] = lambda learned: learned
    adapts: Callable[[str], bool] = lambda path: True


def sgd(learning_rate: float) -> InnerOptimizer:
    """Gradient descent with one fixed rate (MAML: Finn, Abbeel, Levine, ICML 2017).

    Example:
        >>> maml.sgd(0.1).init({"w": jnp.zeros(3)}, 5)
        {}
    """
    return InnerOptimizer(lambda params, num_steps: {}, lambda learned: optax.sgd(learning_rate))


def _scaled(rates: Any) -> optax.GradientTransformation:
    """Descends by a rate per tensor, [], or per weight."""

    def scale(updates: Any, _: Params | None) -> Any:
        return jax.tree.map(lambda rate, g: -rate * g, rates, updates)

    return optax.stateless(scale)


def lslr(learning_rate: float) -> InnerOptimizer:
    """One learned rate per parameter tensor and inner step (LSLR, section 4 of the paper).

    Rates start at `learning_rate`, are free to become negative and add one number per tensor and step.

    Example:
        >>> maml.lslr(0.1).init({"w": jnp.zeros((3, 2))}, 2)
        {'w': Array([0.1, 0.1], dtype=float32)}
    """

    def init(params: Params, num_steps: int) -> Any:
        return jax.tree.map(lambda p: jnp.full((num_steps,), learning_rate, p.dtype), params)

    return InnerOptimizer(init, _scaled)


def metasgd(learning_rate: float, *, per_step: bool = False) -> InnerOptimizer:
    """A learned rate per weight: ``theta - rate * gradient``, element by element (Meta-SGD).

    Args:
        learning_rate: where the rates start; they are free to become negative.
        per_step: rates of their own for every inner step; otherwise all steps share them.

    References:
        Li, Zhou, Chen, Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017; its single
        inner step has become any number.

    Example:
        >>> maml.metasgd(0.1, per_step=True).init({"w": jnp.zeros((3, 2))}, 5)["w"].shape
        (5, 3, 2)
    """

    def init(params: Params, num_steps: int) -> Any:
        entries = num_steps if per_step else 1
        return jax.tree.map(lambda p: jnp.full((entries, *p.shape), learning_rate, p.dtype), params)

    return InnerOptimizer(init, _scaled)


def alfa(learning_rate: float) -> InnerOptimizer:
    """Rates and weight decay that a small network generates in every inner step (ALFA).

    ``theta <- (1 - decay) * theta - rate * gradient`` with a rate and a decay per tensor. Each is a learned number per
    tensor and step times a generated factor. The network sees the means of the N tensors and of their gradients; it has
    one hidden layer of 2N ReLUs and is shared by all steps. Its output is added to 1 and starts at 0, so that ALFA
    begins as gradient descent with `learning_rate` and hardly any decay; its first layer is the same for every seed.

    References:
        Baik, Choi, Choi, Kim, Lee, "Meta-Learning with Adaptive Hyperparameters", NeurIPS 2020.

    Example:
        >>> sorted(maml.alfa(0.1).init({"w": jnp.zeros(3)}, 5))
        ['decay', 'generator', 'rate']
    """

    def init(params: Params, num_steps: int) -> Any:
        def per_tensor(value: float) -> Any:
            return jax.tree.map(lambda p: jnp.full((num_steps,), value, p.dtype), params)

        tensors = jax.tree.leaves(params)
        width, dtype = 2 * len(tensors), tensors[0].dtype
        key = jax.random.key(0, impl="threefry2x32")
        generator = {
            "kernel0": jax.nn.initializers.xavier_uniform()(key, (width, width), dtype),
            "bias0": jnp.zeros(width, dtype),
            "kernel1": jnp.zeros((width, width), dtype),
            "bias1": jnp.zeros(width, dtype),
        }
        return {
            "rate": per_tensor(learning_rate),
            "decay": per_tensor(_ALFA_DECAY * learning_rate),
            "generator": jax.tree.map(lambda leaf: leaf[None], generator),
        }

    def transform(learned: Any) -> optax.GradientTransformation:
        def descend(gradients: Any, params: Params | None) -> Any:
            tensors, treedef = jax.tree.flatten(gradients)
            means = jnp.stack([leaf.mean() for leaf in (*jax.tree.leaves(params), *tensors)])
            network = learned["generator"]
            hidden = jax.nn.relu(means @ network["kernel0"] + network["bias0"])
            factors = 1 + hidden @ network["kernel1"] + network["bias1"]
            rates, decays = (jax.tree.unflatten(treedef, half) for half in jnp.split(factors, 2))
            return jax.tree.map(
                lambda g, p, rate, a, decay, b: -rate * a * g - decay * b * p,
                *(gradients, params),
                *(learned["rate"], rates, learned["decay"], decays),
            )

        return optax.stateless(descend)

    return InnerOptimizer(init, transform, lambda learned: learned["rate"])


def masked(base: InnerOptimizer, adapts: Callable[[str], bool]) -> InnerOptimizer:
    """Adapts only some parameter tensors in the inner loop; the others stay at theta_0.

    Args:
        base: the inner optimizer of these; it learns nothing for the others.
        adapts: path of a tensor, such as "conv0/kernel" -> whether the inner loop changes it.

    Raises:
        ValueError: when `init` or the inner loop starts, where `adapts` chooses no tensor at all.

    Example:
        >>> head_alone = maml.masked(maml.sgd(0.1), lambda path: path.startswith("linear/"))
        >>> head_alone.adapts("conv0/kernel")
        False
    """

    def chosen(params: Params) -> Any:
        choices = {path: bool(adapts(path)) for path in named_leaves(params)}
        if not any(choices.values()):
            raise ValueError(
                f"masked: `adapts` chooses none of the tensors, so nothing would adapt; there are {', '.join(choices)}."
            )
        return jax.tree.unflatten(jax.tree.structure(params), choices.values())

    def init(params: Params, num_steps: int) -> Any:
        adapted = jax.tree.map(
            lambda is_chosen, leaf: leaf if is_chosen else optax.MaskedNode(),
            chosen(params),
            params,
        )
        return base.init(adapted, num_steps)

    def transform(learned: Any) -> optax.GradientTransformation:
        return optax.partition({True: base.transform(learned), False: optax.set_to_zero()}, chosen)

    return InnerOptimizer(
        init, transform, base.rates, lambda path: adapts(path) and base.adapts(path)
    )


def away_from_zero(smallest: float = 1e-12) -> optax.GradientTransformation:
    """Replaces gradients smaller than `smallest` by that constant, where a root has no usable derivative.

    For the front of a chain, see the module's text. Second-order terms of the replaced elements are left out; other
    elements pass unchanged.

    Args:
        smallest: positive; its square must be a number of the gradient's dtype.

    Example:
        >>> guard = maml.away_from_zero(1e-3)
        >>> guard.update(jnp.array([0.0, 1.0]), guard.init(None))[0].round(3).tolist()
        [0.0010000000474974513, 1.0]
    """

    def replace(updates: Any, _: Params | None) -> Any:
        return jax.tree.map(lambda g: jnp.where(jnp.abs(g) < smallest, smallest, g), updates)

    return optax.stateless(replace)
