"""The benchmark's kinds of task, and the operations that they need."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

_BLOCKS = 4  # of the network


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of task and a network of four blocks."""

    name: str
    way: int = 5
    shot: int = 1
    query: int = 1  # images per class
    size: int = 28  # height and width of an image
    channels: int = 1
    filters: int = 64  # of each block
    tasks: int = 8  # the meta-batch
    steps: int = 5  # inner steps


CASES = {
    case.name: case
    for case in (
        Case("omniglot_5w1s"),
        Case("omniglot_20w1s", way=20),
        Case("mini_imagenet_5w1s", query=15, size=84, channels=3, filters=48, tasks=2),
        Case("omniglot_20w1s_16_tasks", way=20, tasks=16),  # the paper's meta-batch
    )
}


def count_gflop(case: Case, order: int, multi_step: bool) -> float:
    """Counts multiplications and additions of convolutions and linear layer in one outer step, in 1e9.

    A layer's forward pass, input gradient and kernel gradient cost the same. The first layer's input is the
    image, so it has no input gradient. Differentiating a support pass with its two gradients once more
    (second order) takes two such products for each of its three, less those of the image.
    """
    support, query = case.way * case.shot, case.way * case.query
    total = 0.0
    for layer, per_image in enumerate(_products(case)):
        first_order, again = (2, 2) if layer == 0 else (3, 6)
        support_products = first_order + (again if order == 2 else 0)
        queries = case.steps if multi_step else 1
        total += per_image * support * support_products * case.steps
        total += per_image * query * first_order * queries
    return total * case.tasks / 1e9


def count_evaluation_gflop(case: Case, tasks: int, modes: Sequence[str]) -> float:
    """Counts as `count_gflop`, of predictions after the last inner step; `support` takes one more support pass."""
    support, query = case.way * case.shot, case.way * case.query
    total = 0.0
    for layer, per_image in enumerate(_products(case)):
        passes = (2 if layer == 0 else 3) * case.steps + ("support" in modes)
        total += per_image * (support * passes + query * len(modes))
    return total * tasks / 1e9


def _products(case: Case) -> list[int]:
    """Multiplications and additions of each layer's forward pass over one image."""
    layers, size, channels = [], case.size, case.channels
    for _ in range(_BLOCKS):
        layers.append(2 * size * size * 9 * channels * case.filters)
        size, channels = size // 2, case.filters
    return [*layers, 2 * size * size * channels * case.way]
