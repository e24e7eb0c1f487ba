"""From a Flax module to the pure function the loops call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mamlpp_jax.models.head import HEAD
from mamlpp_jax.types import (
    Array,
    BodyAndHead,
    Forward,
    ModelVariables,
    Moments,
    NormParams,
    Params,
)

_CARRIED = ("params", "norm", "batch_stats")
_LEFT = ("moments", "intermediates", "perturbations")  # made in every pass


def init_model(module: nn.Module, key: Array, example_inputs: Any) -> ModelVariables:
    """Samples the weights of a backbone.

    Args:
        module: any Flax module from inputs to outputs. Its batch norm, if it has one, is `PerStepBatchNorm`, at any
            depth and in any number.
        key: a JAX random key.
        example_inputs: inputs as an episode has them, leaves [N, ...] for any N: arrays, or
            `jax.ShapeDtypeStruct` instances. Dtypes are kept.

    Raises:
        ValueError: a leaf has no shape, or the module has variables that the loops cannot carry, such as those of
            `nn.BatchNorm`.

    Example:
        >>> example = jax.ShapeDtypeStruct((1, 4), jnp.float32)
        >>> maml.init_model(nn.Dense(3), jax.random.key(0), example).params["kernel"].shape
        (4, 3)
    """
    inputs = jax.tree.map(_example, example_inputs, is_leaf=lambda leaf: leaf is None)
    variables = _call(module, lambda kwargs: module.init({"params": key}, inputs, **kwargs))
    _check_variables(module, variables)
    return ModelVariables(*(variables.get(name, {}) for name in _CARRIED))


def _example(leaf: Any) -> Array:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.zeros(leaf.shape, leaf.dtype)
    if not hasattr(leaf, "shape"):
        raise ValueError(
            f"example_inputs has the leaf {leaf!r}; give arrays or jax.ShapeDtypeStructs, with a leading axis of "
            "examples, such as jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)."
        )
    return leaf


def _check_variables(module: nn.Module, variables: Mapping[str, Any]) -> None:
    unknown = sorted(variables.keys() - {*_CARRIED, *_LEFT})
    if unknown:
        raise ValueError(
            f"{type(module).__name__} has variables of the collection {unknown[0]!r}, which no inner step carries; a "
            "backbone may have parameters and `PerStepBatchNorm`."
        )
    norm, stats = (_layers(variables.get(name, {})) for name in ("norm", "batch_stats"))
    if foreign := sorted(stats - norm):
        raise ValueError(
            f"{type(module).__name__} has running statistics in {'/'.join(foreign[0])}, as nn.BatchNorm keeps "
            "them; use mamlpp_jax.PerStepBatchNorm, which normalises as the learner's statistics say."
        )


def _layers(tree: Mapping[str, Any]) -> set[tuple[str, ...]]:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return {tuple(entry.key for entry in path[:-1]) for path in paths}


def make_forward(module: nn.Module) -> Forward:
    """Wraps a backbone as `mamlpp_jax.types.Forward`.

    Without a key nothing is drawn: `nn.Dropout` passes its input on, and arguments of the module's `__call__` called
    `deterministic`, or `train` or `training`, are True, or False. With a key they are the opposite, and every random
    stream of the module is made of that key.

    Args:
        module: as in `init_model`.

    Example:
        >>> forward = maml.make_forward(nn.Dense(3))
        >>> outputs, moments = forward(variables.params, {}, jnp.zeros((2, 4)))
        >>> outputs.shape
        (2, 3)
    """

    def forward(
        params: Params,
        norm: NormParams,
        inputs: Any,
        bn_stats: Moments | None = None,
        key: Array | None = None,
    ) -> tuple[Any, Moments]:
        variables = {"params": params, "norm": norm}
        if bn_stats is not None:
            variables["batch_stats"] = bn_stats
        # Flax makes every stream that is not given of the stream `params`.
        rngs = None if key is None else {"params": key, "dropout": jax.random.fold_in(key, 0)}

        def apply(kwargs: dict[str, Any]) -> Any:
            return module.apply(variables, inputs, mutable=["moments"], rngs=rngs, **kwargs)

        outputs, left = _call(module, apply, draws=key is not None)
        return outputs, left.get("moments", {})

    return forward


def _call(module: nn.Module, call: Callable[[dict[str, Any]], Any], draws: bool = False) -> Any:
    """Calls a module so that it draws random numbers, or none."""
    switches = {"deterministic": not draws, "train": draws, "training": draws}
    taken = inspect.signature(type(module).__call__).parameters
    kwargs = {name: value for name, value in switches.items() if name in taken}

    def decide(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        layer = context.module
        if context.method_name == "__call__" and hasattr(layer, "deterministic"):
            kwargs = _decided(layer, kwargs, draws)
            if isinstance(layer, nn.Dropout) and not draws:
                return args[0]
        return call(*args, **kwargs)

    with nn.intercept_methods(decide):
        return call(kwargs)


def _decided(layer: Any, kwargs: dict[str, Any], draws: bool) -> dict[str, Any]:
    """The arguments of a layer such as `nn.Dropout` or attention, whether it drops or not."""
    takes = "deterministic" in inspect.signature(type(layer).__call__).parameters
    given = layer.deterministic is not None or kwargs.get("deterministic") is not None
    return kwargs if given or not takes else {**kwargs, "deterministic": not draws}


def make_body_and_head(module: nn.Module) -> BodyAndHead:
    """Divides a backbone before its head.

    Args:
        module: a backbone whose last layer is an `nn.Dense` with the name `linear`.

    Example:
        >>> maml.make_body_and_head(maml.Conv4(ways=5)).in_head("conv0/kernel")
        False
    """
    forward = make_forward(module)

    def skip_head(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        is_head = context.module.path == (HEAD,) and context.method_name == "__call__"
        return args[0] if is_head else call(*args, **kwargs)

    def body(
        params: Params,
        norm: NormParams,
        inputs: Any,
        bn_stats: Moments | None = None,
        key: Array | None = None,
    ) -> tuple[Array, Moments]:
        with nn.intercept_methods(skip_head):
            return forward(params, norm, inputs, bn_stats, key)

    def head(params: Params, features: Array) -> Array:
        outputs = params[HEAD]["kernel"].shape[-1]
        layer = nn.Dense(outputs, dtype=features.dtype)
        return jnp.asarray(layer.apply({"params": params[HEAD]}, features))

    return BodyAndHead(body, head, lambda path: path.startswith(f"{HEAD}/"))
