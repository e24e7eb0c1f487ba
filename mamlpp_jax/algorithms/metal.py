"""MeTAL: an inner loss that is learned, and adapted to the state of each task."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mamlpp_jax.algorithms.losses import InnerLoss, cross_entropy
from mamlpp_jax.models.head import HEAD
from mamlpp_jax.types import Array, Batch, Params

# Tensors of a loss network: two layers, the last without a bias, which no gradient would show.
_TENSORS = 3
_XAVIER = jax.nn.initializers.xavier_uniform()


def metal() -> InnerLoss:
    """Cross-entropy plus two learned losses: of the support set, and of the queries without their labels.

    Each learned loss is a network of one hidden layer, from the state of the task and an example to a number, mean over
    the examples. The state is the mean of every weight tensor and, with labels, the cross-entropy. An example is its
    logits with the label's one-hot vector, or with the negative entropy of its prediction. Inputs are brought to mean 0
    and deviation 1. A second network sees the state, with the queries their mean example too, and generates a factor
    and an offset for each tensor of the first.
    All of it is learned for every inner step.

    Because the inner loop reads the queries, the method is *transductive*: a prediction depends on the other queries of
    its task, under any statistics. `metal_inductive` leaves that part out.

    Outputs are for as many classes as in training; with fewer, the missing logits are 0. First order stops the
    gradient that teaches the losses. Three things are not as in the authors' code: the losses start at 0, so that
    training begins as with cross-entropy alone; support set and queries are normalised as the statistics say, not as
    one batch; and the outer loss is of the queries alone.

    References:
        Baik, Choi, Kim, Cho, Min, Lee, "Meta-Learning with Task-Adaptive Loss Function for Few-Shot Learning", ICCV
        2021, sections 3.2 and 3.3.

    Example:
        >>> learned = maml.metal().init({"linear": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}}, 5)
        >>> learned["support"]["loss"]["kernel0"].shape  # two tensors, the loss, logits and label
        (5, 9, 9)
    """
    return metal_inductive()._replace(init=_init, of_queries=_of_queries)


def metal_inductive() -> InnerLoss:
    """The learned loss of the support set alone, see `metal`: each query may be predicted alone.

    Example:
        >>> sorted(maml.metal_inductive().init({"linear": {"kernel": jnp.zeros((4, 3))}}, 5))
        ['support']
    """
    return InnerLoss(
        lambda params, steps: {"support": _init(params, steps)["support"]}, _of_support
    )


def _init(params: Params, num_steps: int) -> dict[str, Any]:
    tensors = jax.tree.leaves(params)
    ways, dtype = params[HEAD]["kernel"].shape[-1], tensors[0].dtype
    state, example = len(tensors), {"support": 2 * ways + 1, "query": ways + 1}
    seen_by_adapter = {"support": state + 1, "query": state + example["query"]}
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), 3 * num_steps)

    def one(loss: str, keys: Array) -> dict[str, Any]:
        adapter = {
            **_hidden(keys[1], seen_by_adapter[loss], dtype),
            "kernel1": _XAVIER(keys[2], (seen_by_adapter[loss], 2 * _TENSORS), dtype),
            "bias1": jnp.zeros(2 * _TENSORS, dtype),
            "multiplier": jnp.zeros(_TENSORS, dtype),
            "offset": jnp.zeros(_TENSORS, dtype),
        }
        inputs = state + example[loss]
        network = {
            **_hidden(keys[0], inputs, dtype),
            "kernel1": jnp.zeros((inputs, 1), dtype),
        }
        return {"loss": network, "adapter": adapter}

    per_step = keys.reshape(num_steps, 3)
    return {loss: jax.vmap(lambda keys, loss=loss: one(loss, keys))(per_step) for loss in example}


def _hidden(key: Array, inputs: int, dtype: Any) -> dict[str, Array]:
    """A hidden layer of as many units as inputs."""
    return {
        "kernel0": _XAVIER(key, (inputs, inputs), dtype),
        "bias0": jnp.zeros(inputs, dtype),
    }


def _apply(network: Any, x: Array) -> Array:
    hidden = jax.nn.relu(x @ network["kernel0"] + network["bias0"])
    return hidden @ network["kernel1"] + network.get("bias1", 0)


def _adapted(learned: Any, state: Array) -> Any:
    """The loss network with a generated factor and offset for each of its tensors."""
    adapter = learned["adapter"]
    factors, offsets = jnp.split(_apply(adapter, state), 2)
    tensors, treedef = jax.tree.flatten(learned["loss"])
    factors, offsets = 1 + adapter["multiplier"] * factors, adapter["offset"] * offsets
    return jax.tree.unflatten(
        treedef, [factors[i] * tensor + offsets[i] for i, tensor in enumerate(tensors)]
    )


def _of_support(learned: Any, outputs: Array, batch: Batch, params: Params) -> Array:
    loss = cross_entropy(outputs, batch.targets)
    state = jnp.concatenate([loss[None], _means(params)])
    learned, count = learned["support"], len(outputs)
    room = (learned["loss"]["kernel0"].shape[0] - len(state)) // 2
    label = jax.nn.one_hot(batch.targets, room, dtype=outputs.dtype)
    x = _beside(state, _padded(outputs, room), label, count=count)
    return loss + _apply(_adapted(learned, _normalised(state)), _normalised(x)).mean()


def _of_queries(learned: Any, outputs: Array, params: Params) -> Array:
    learned, means = learned["query"], _means(params)
    room = learned["loss"]["kernel0"].shape[0] - len(means) - 1
    log_p = jax.nn.log_softmax(outputs)
    certainty = jnp.sum(jnp.exp(log_p) * log_p, axis=-1, keepdims=True)
    x = _normalised(_beside(means, _padded(outputs, room), certainty, count=len(outputs)))
    return _apply(_adapted(learned, x.mean(0)), x).mean()


def _means(params: Params) -> Array:
    return jnp.stack([leaf.mean() for leaf in jax.tree.leaves(params)])


def _padded(logits: Array, room: int) -> Array:
    """Logits [N, K] with zeros for the classes that were there in training and are not now."""
    missing = room - logits.shape[-1]
    if missing < 0:
        raise ValueError(
            f"there are {logits.shape[-1]} classes, and MeTAL's loss was trained with {room}; use at most that many."
        )
    return jnp.pad(logits, ((0, 0), (0, missing)))


def _beside(state: Array, *columns: Array, count: int) -> Array:
    """The state of the task in every row, and columns."""
    return jnp.concatenate([jnp.broadcast_to(state, (count, len(state))), *columns], axis=-1)


def _normalised(x: Array) -> Array:
    """All elements with mean 0 and, counted as a sample's, deviation 1."""
    return (x - x.mean()) / (x.std(ddof=1) + 1e-12)
