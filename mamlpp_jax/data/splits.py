"""The division of a data set's classes into training, validation and test classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mamlpp_jax.config import FEW_CLASSES, parse_fractions
from mamlpp_jax.data.dataset import SPLITS, Dataset
from mamlpp_jax.data.readers.csv_files import read_csv
from mamlpp_jax.errors import ConfigError, DataError

_HEADER = ["class", "split"]


def split_dataset(
    dataset: Dataset,
    data_config: Any,
    way: int = 1,
    rotations: Mapping[str, int] = MappingProxyType({}),
    recorded: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, np.ndarray]:
    """The classes of each split, by the first of these rules that applies.

    1. ``split_file`` lists the classes. 2. The data set was published with splits. 3. Numbers of
    classes (``train_classes`` and so on). 4. ``split_fractions`` of the classes. 5. The recorded classes.
    6. The usual fractions, moved so that every split has classes for ``way`` as far as there are enough
    (`automatic_counts`). Under rules 1 and 2 the numbers may ask for fewer classes than there are; 0 takes all.

    A class of a split counts as ``rotations[split]`` classes, 1 by default; `recorded` are the names of the classes of
    each split, where they have been chosen before.

    Returns:
        For each name in ``SPLITS`` int32 class indices, at least one; no class is in two splits.

    Raises:
        ConfigError: a field asks for what the data set does not have.
        DataError: the list file is missing or broken.
    """
    counts = {split: int(getattr(data_config, f"{split}_classes")) for split in SPLITS}
    seed = int(data_config.seed)
    listed: Sequence[str] = dataset.class_splits
    origin = f"the data set {dataset.name}"
    if data_config.split_file:
        listed = read_split_file(Path(data_config.split_file).expanduser(), dataset)
        origin = f"data.split_file={data_config.split_file}"
    if listed:
        return _listed_classes(listed, counts, seed, origin)
    if not any(counts.values()):
        fractions = parse_fractions(data_config.split_fractions)
        if data_config.split_fractions:
            counts = _rounded_shares(dataset.num_classes, fractions)
            if empty := next((split for split in SPLITS if not counts[split]), None):
                raise ConfigError(
                    f"data.split_fractions gives the {empty} split none of the {dataset.num_classes} classes; raise "
                    "its fraction, leave data.split_fractions empty to have them chosen, or set data.train_classes, "
                    "data.val_classes and data.test_classes."
                )
        elif known := _recorded_classes(dataset, recorded):
            return known
        else:
            counts = automatic_counts(dataset.num_classes, fractions, way, rotations)
    for split, count in counts.items():
        if count == 0:
            raise ConfigError(
                f"data.{split}_classes is 0, but the other splits have numbers of classes; set all three, or "
                "all to 0 to divide the classes by data.split_fractions."
            )
    return split_classes(dataset.num_classes, counts, seed)


def _listed_classes(
    listed: Sequence[str], counts: Mapping[str, int], seed: int, origin: str
) -> dict[str, np.ndarray]:
    """Classes whose split is given, in an order that depends on the seed; the first `count` of each."""
    order = _random_order(len(listed), seed)
    result = {}
    for split, count in counts.items():
        members = order[[listed[index] == split for index in order]]
        if len(members) == 0:
            raise ConfigError(
                f"By {origin}, the {split} split has no classes; it needs at least one."
            )
        if count > len(members):
            raise ConfigError(
                f"data.{split}_classes is {count}, but by {origin} the {split} split has {len(members)} "
                "classes; ask for at most as many, or for 0 to use all."
            )
        result[split] = members[: count or None]
    return result


def _recorded_classes(
    dataset: Dataset, recorded: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """The indices of recorded classes; {} where there is no complete record of classes of this data set."""
    position = {name: index for index, name in enumerate(dataset.class_names)}
    if set(recorded) != set(SPLITS) or not all(recorded.values()):
        return {}
    if not all(name in position for names in recorded.values() for name in names):
        return {}
    return {
        split: np.array([position[name] for name in recorded[split]], np.int32) for split in SPLITS
    }


def automatic_counts(
    num_classes: int, fractions: Sequence[float], way: int, rotations: Mapping[str, int]
) -> dict[str, int]:
    """Classes per split: at least `way` in each, or else as many in each as there are.

    `fractions` and `rotations` are as in `split_dataset`.
    """
    if num_classes < len(SPLITS):
        raise ConfigError(
            f"the data set has {num_classes} class(es), which cannot be divided into {', '.join(SPLITS)}; it needs "
            f"three at least, and `config.task.way` times three for tasks of that many classes.{FEW_CLASSES}"
        )
    most = max(rotations.values(), default=1) * num_classes
    for feasible in range(min(way, most), 0, -1):
        least = {split: -(-feasible // rotations.get(split, 1)) for split in SPLITS}
        if sum(least.values()) <= num_classes:
            break
    shares = _rounded_shares(num_classes, fractions)
    counts = {split: max(least[split], shares[split]) for split in SPLITS}
    excess = sum(counts.values()) - num_classes
    for split in ("train", "test", "val"):
        taken = min(max(excess, 0), counts[split] - least[split])
        counts[split] -= taken
        excess -= taken
    return counts


def _rounded_shares(num_classes: int, fractions: Sequence[float]) -> dict[str, int]:
    """Classes per split; their sum is the rounded sum of the fractions of all classes."""
    ends = np.floor(np.cumsum([0.0, *fractions]) * num_classes + 0.5).astype(int)
    return dict(zip(SPLITS, np.diff(ends).tolist(), strict=True))


def read_split_file(path: Path, dataset: Dataset) -> tuple[str, ...]:
    """Reads the split of each class of a data set, "" for classes that are left out, from a CSV file.

    The file has the header ``class,split`` and one line per class; any other content is a `DataError`.
    """
    rows = read_csv(path, "data.split_file: ")
    if not rows or [cell.strip() for cell in rows[0]] != _HEADER:
        raise DataError(
            f"data.split_file: {path} must begin with the line 'class,split'; then one line per class follows."
        )
    position = {name: index for index, name in enumerate(dataset.class_names)}
    result = [""] * dataset.num_classes
    for row in rows[1:]:
        name, split = row if len(row) == 2 else (",".join(row), "")
        name, split = name.strip(), split.strip()
        if split not in SPLITS or name not in position or result[position[name]]:
            raise DataError(
                f"data.split_file: {path} has the line {','.join(row)!r}; each line must be a class of "
                f"{dataset.name}, such as {dataset.class_names[0]!r}, a comma and one of {', '.join(SPLITS)}, "
                "and no class may be listed twice."
            )
        result[position[name]] = split
    return tuple(result)


def split_classes(num_classes: int, counts: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Deals the classes, by their number and a seed, out to the three splits: int32 [count] class indices each.

    The order is that of raw random bits, not of a NumPy distribution: NumPy promises the former
    never to change, so a seed names the same split under every version. Classes beyond the counts are unused.
    """
    total = sum(counts.values())
    if total > num_classes:
        wanted = " + ".join(f"data.{split}_classes={count}" for split, count in counts.items())
        raise ConfigError(
            f"{wanted} = {total} classes, but the data set has {num_classes}; the three together "
            f"may be at most {num_classes}."
        )
    order = _random_order(num_classes, seed)
    ends = np.cumsum([counts[split] for split in SPLITS])
    parts = np.split(order[:total], ends[:-1])
    return dict(zip(SPLITS, parts, strict=True))


def _random_order(num_classes: int, seed: int) -> np.ndarray:
    bits = np.random.PCG64(seed).random_raw(num_classes)
    return np.argsort(bits, kind="stable").astype(np.int32)
