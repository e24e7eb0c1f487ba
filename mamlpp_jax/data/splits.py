"""The division of a data set's classes into training, validation and test classes."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import numpy as np

from mamlpp_jax.errors import ConfigError

SPLITS = ("train", "val", "test")


def split_classes(
    num_classes: int, counts: Mapping[str, int] | Sequence[int], seed: int
) -> dict[str, np.ndarray]:
    """Deals the classes out to the three splits, at random but reproducibly.

    The order is that of raw random bits, not of a NumPy distribution: NumPy promises the former
    never to change, so a seed names the same split under every version.

    Args:
        num_classes: number of classes, which are taken to be in name order.
        counts: classes per split, by the names in ``SPLITS`` or in their order. Their sum may be
            smaller than ``num_classes``; the remaining classes are unused.
        seed: what the split depends on besides ``num_classes``; at least 0.

    Returns:
        For each name in ``SPLITS`` int32 [count] class indices; no class is in two splits.

    Raises:
        ConfigError: the counts are negative or exceed the classes, or the seed is negative.
    """
    sizes = _sizes(counts)
    for split, size in sizes.items():
        if size < 0:
            raise ConfigError(f"data.{split}_classes is {size}; it must be 0 or more.")
    total = sum(sizes.values())
    if total > num_classes:
        wanted = " + ".join(f"data.{split}_classes={size}" for split, size in sizes.items())
        raise ConfigError(
            f"{wanted} = {total} classes, but the data set has {num_classes}; the three together "
            f"may be at most {num_classes}."
        )
    if seed < 0:
        raise ConfigError(f"data.seed is {seed}; it must be 0 or more.")
    bits = np.random.PCG64(seed).random_raw(num_classes)
    order = np.argsort(bits, kind="stable").astype(np.int32)
    ends = np.cumsum([sizes[split] for split in SPLITS])
    parts = np.split(order[:total], ends[:-1])
    return dict(zip(SPLITS, parts, strict=True))


def _sizes(counts: Mapping[str, int] | Sequence[int]) -> dict[str, int]:
    """Returns the counts by split name, checked to be three integers."""
    fields = ", ".join(f"data.{split}_classes" for split in SPLITS)
    if isinstance(counts, Mapping):
        by_name = dict(counts)
    else:
        by_name = dict(zip(SPLITS, counts, strict=False))
    if set(by_name) != set(SPLITS) or len(counts) != len(SPLITS):
        raise ConfigError(f"Class counts are {counts!r}; they must be the three of {fields}.")
    try:
        return {split: operator.index(by_name[split]) for split in SPLITS}
    except TypeError as error:
        raise ConfigError(f"Class counts are {counts!r}; {fields} must be integers.") from error
