"""The table of data sources, and the way from a configuration to a data set."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from mamlpp_jax.data.cache import CacheKey, cache_folder, load_or_make
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.errors import ConfigError, DataError, listed
from mamlpp_jax.utils.terminal import phase


class _Source(NamedTuple):
    """A module of this package that reads data sets, imported where it is called: the cache takes NumPy alone."""

    module: str
    reads: tuple[str, ...] = ()  # fields of folders
    channels: int = 0  # 0 when ``data.channels`` or the images decide
    inverted: bool = False  # dark writing on white paper becomes ink 255, paper 0
    has_identity: bool = False  # many data sets, each with its own cache file
    version: int = 1  # see `CacheKey`

    def call(self, function: str, data_config: Any) -> Any:
        """Imports the module and calls ``build`` or ``identity``."""
        module = importlib.import_module(f"mamlpp_jax.data.sources.{self.module}")
        return getattr(module, function)(data_config)


_TFDS = "tfds:<name>"
_SOURCES = {
    "glyphs": _Source("glyphs", channels=1, inverted=True),
    "image_folder": _Source("image_folder", ("manual_dir",), has_identity=True),
    **dict.fromkeys(
        ("cifar_fs", "fc100"), _Source("published", ("manual_dir", "tfds_dir"), channels=3)
    ),
    **dict.fromkeys(
        ("cub", "mini_imagenet", "tiered_imagenet"),
        _Source("published", ("manual_dir",), channels=3),
    ),
    "omniglot": _Source("omniglot", ("manual_dir", "tfds_dir"), channels=1, inverted=True),
    _TFDS: _Source("tfds", ("tfds_dir",), has_identity=True),
}


def known_names() -> tuple[str, ...]:
    """The values ``data.name`` may have, sorted."""
    return tuple(sorted(_SOURCES))


def known_channels(data_config: Any) -> int:
    """The channels that a configured data set will have; 0 when its images decide."""
    return _known(data_config.name).channels or int(data_config.channels)


def is_inverted(name: str) -> bool:
    """True for the name of a data set of writing, ink 255 on paper 0."""
    source = _find(name)
    return source is not None and source.inverted


def _find(name: str) -> _Source | None:
    return _SOURCES.get(_TFDS if name.startswith("tfds:") else name)


def _known(name: str) -> _Source:
    source = _find(name)
    if source is None:
        raise ConfigError(f"data.name is {name!r}; known data sets are {', '.join(known_names())}.")
    return source


def load_dataset(data_config: Any) -> Dataset:
    """Returns the configured data set, from the cache when it was made before.

    Args:
        data_config: a whole configuration, or its section `data`.

    Omniglot and mini-ImageNet have one cache file per image size, because every source of them gives
    the same arrays. The cache files of image folders and TFDS data sets depend on their contents too,
    so that changes are noticed. Nothing is written beside a source.

    Raises:
        ConfigError: a field names something unknown, unread or not writable.
        DataError: the source is missing or broken.

    Example:
        >>> dataset = maml.load_dataset(of_images)
        >>> dataset.num_classes, dataset.images.shape
        (6, (18, 16, 16, 1))
    """
    data_config = getattr(data_config, "data", data_config)
    name, size = data_config.name, data_config.image_size
    source = _known(name)
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"data.image_size is {size!r}; it must be a positive number of pixels.")
    for field in ("manual_dir", "tfds_dir"):
        value = getattr(data_config, field)
        if value and field not in source.reads:
            read = " and ".join(f"data.{name}" for name in source.reads) or "no folder"
            raise ConfigError(
                f"data.{field} is {value!r}, but {name} is read from {read}; leave it empty, or choose "
                "another data.name."
            )
    folder = cache_folder(data_config.cache_dir)
    start = time.perf_counter()
    try:
        identity = ""
        if source.has_identity:
            with phase(f"looking for the images of {name}"):
                identity = source.call("identity", data_config)
        key = CacheKey(name, identity, size, source.version)
        unread = "" if source.has_identity else data_config.tfds_dir or data_config.manual_dir
        dataset = load_or_make(folder, key, partial(source.call, "build", data_config), unread)
    except OSError as error:
        raise DataError(
            f"Data set {name}: cannot read or write {error.filename or folder}: "
            f"{error.strerror or error}; see data.manual_dir, data.tfds_dir and data.cache_dir."
        ) from error
    logging.info(
        f"Data set {dataset.name} ({folder / key.file_name}): {dataset.num_classes:,} classes, "
        f"{len(dataset.images):,} images, {time.perf_counter() - start:.1f} s."
    )
    return _without_small(dataset, data_config.smallest_class)


def _without_small(dataset: Dataset, smallest: int) -> Dataset:
    """The data set without classes of fewer images."""
    large = dataset.class_sizes >= smallest
    if large.all():
        return dataset
    names = [
        name for name, is_large in zip(dataset.class_names, large, strict=True) if not is_large
    ]
    about = f"{len(names)} classes have fewer than data.smallest_class={smallest} images"
    if not large.any():
        raise ConfigError(f"All {about}; use at most {dataset.class_sizes.max()}.")
    logging.warning("%s and are left out: %s.", about, listed(names))
    return dataclasses.replace(
        dataset,
        images=dataset.images[np.repeat(large, dataset.class_sizes)],
        class_names=tuple(itertools.compress(dataset.class_names, large)),
        class_sizes=dataset.class_sizes[large],
        class_splits=tuple(itertools.compress(dataset.class_splits, large)),
    )
