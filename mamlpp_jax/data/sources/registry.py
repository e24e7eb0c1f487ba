"""The way from a configuration to a data set: the cache first, then the source."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from mamlpp_jax.data import dataset as dataset_lib
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.errors import ConfigError, DataError
from mamlpp_jax.utils.files import remove_unfinished
from mamlpp_jax.utils.locks import one_at_a_time


class _Source(NamedTuple):
    """How a data set is made.

    Attributes:
        version: part of the cache file's name; raise it when the same settings give other arrays.
        build: from the ``data`` configuration and a cache folder to the data set.
        identity: from the ``data`` configuration to what tells one data set of this source from
            another; part of the cache file's name. None when the source knows one data set only.
        channels: of its images; 0 when ``data.channels`` decides.
    """

    version: int
    build: Callable[[Any, Path], Dataset]
    identity: Callable[[Any], str] | None = None
    channels: int = 0


# The modules are imported when they are needed: reading the cache takes NumPy alone.
def _build_glyphs(data_config: Any, cache_dir: Path) -> Dataset:
    from mamlpp_jax.data.sources import glyphs

    del cache_dir
    return glyphs.build(int(data_config.image_size))


def _build_omniglot(data_config: Any, cache_dir: Path) -> Dataset:
    from mamlpp_jax.data.sources import omniglot

    return omniglot.build(data_config, cache_dir)


def _build_mini_imagenet(data_config: Any, cache_dir: Path) -> Dataset:
    from mamlpp_jax.data.sources import mini_imagenet

    return mini_imagenet.build(data_config, cache_dir)


def _build_image_folder(data_config: Any, cache_dir: Path) -> Dataset:
    from mamlpp_jax.data.sources import image_folder

    del cache_dir
    return image_folder.build(data_config)


def _identify_image_folder(data_config: Any) -> str:
    from mamlpp_jax.data.sources import image_folder

    return image_folder.identity(data_config)


def _build_tfds(data_config: Any, cache_dir: Path) -> Dataset:
    from mamlpp_jax.data.sources import tfds

    del cache_dir
    return tfds.build(data_config)


def _identify_tfds(data_config: Any) -> str:
    from mamlpp_jax.data.sources import tfds

    return tfds.identity(data_config)


_TFDS = "tfds:<name>"
_SOURCES = {
    "glyphs": _Source(1, _build_glyphs, channels=1),
    "image_folder": _Source(1, _build_image_folder, _identify_image_folder),
    "mini_imagenet": _Source(1, _build_mini_imagenet, channels=3),
    "omniglot": _Source(1, _build_omniglot, channels=1),
    _TFDS: _Source(1, _build_tfds, _identify_tfds),
}


def known_names() -> tuple[str, ...]:
    """Returns the values ``data.name`` may have, sorted."""
    return tuple(sorted(_SOURCES))


def known_channels(data_config: Any) -> int:
    """The channels a configured data set will have; 0 when only the images can tell."""
    source = _find(data_config.name)
    return (source.channels if source else 0) or int(data_config.channels)


def _find(name: str) -> _Source | None:
    return _SOURCES.get(_TFDS if name.startswith("tfds:") else name)


def load_dataset(data_config: Any) -> Dataset:
    """Returns the configured data set, from the cache when it was made before.

    The cache file depends on the name and the picture size, not on where the source lies: every
    source of a data set gives the same arrays. One's own images and TFDS data sets are told apart by
    what they hold, so that a change of it is noticed. Nothing is written beside a source.

    Args:
        data_config: has ``name``, ``image_size`` (pixels), ``channels``, ``tfds_dir``, ``manual_dir``
            and ``cache_dir`` ("" = unset; the cache is then the user's cache folder).

    Returns:
        The data set.

    Raises:
        ConfigError: the name is unknown, the size not positive or the cache not writable.
        DataError: the source is missing or broken.
    """
    source = _find(data_config.name)
    if source is None:
        raise ConfigError(
            f"data.name is {data_config.name!r}; known data sets are {', '.join(known_names())}."
        )
    size = data_config.image_size
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"data.image_size is {size!r}; it must be a positive number of pixels.")
    folder = cache_folder(data_config.cache_dir)
    start = time.perf_counter()
    try:
        stem = _file_stem(source, data_config)
        path = folder / f"{stem}-{size}px-v{source.version}.npz"
        looked_at = _stamp(path)
        dataset = _from_cache(path, data_config.name, size)
        source_dir = data_config.tfds_dir or data_config.manual_dir
        if dataset is not None and source_dir and source.identity is None:
            logging.info(
                "The cache is used; %s is not read (remove %s to read it).", source_dir, path
            )
        if dataset is None:
            _make_writable(folder)
            with one_at_a_time(folder / f"{stem}.lock", f"making the data set {data_config.name}"):
                if _stamp(path) != looked_at:  # Another process made it meanwhile.
                    dataset = _from_cache(path, data_config.name, size)
                if dataset is None:
                    dataset = _make(source, data_config, path)
    except OSError as error:
        raise DataError(
            f"Data set {data_config.name}: cannot read or write {error.filename or folder}: "
            f"{error.strerror or error}; see data.manual_dir, data.tfds_dir and data.cache_dir."
        ) from error
    logging.info(
        "Data set %s (%s): %d classes, %d pictures, %.1f s.",
        dataset.name,
        path,
        dataset.num_classes,
        len(dataset.images),
        time.perf_counter() - start,
    )
    return dataset


def _make(source: _Source, data_config: Any, path: Path) -> Dataset:
    """Makes a data set from its source and puts it into the cache, which this process has locked for it."""
    size = data_config.image_size
    logging.info("Making the data set %s at %dx%d pixels.", data_config.name, size, size)
    remove_unfinished(path.parent, path.name)
    dataset = source.build(data_config, path.parent)
    _to_cache(dataset, path)
    return dataset


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes when a file is replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _file_stem(source: _Source, data_config: Any) -> str:
    name = data_config.name.replace(":", "-").replace("/", "-")
    return name if source.identity is None else f"{name}-{source.identity(data_config)}"


def cache_folder(cache_dir: str) -> Path:
    """Returns the folder for what is made once.

    Args:
        cache_dir: ``data.cache_dir``; "" for ``mamlpp_jax`` in the user's cache folder.

    Returns:
        The folder, which need not exist.
    """
    if cache_dir:
        return Path(cache_dir).expanduser()
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user_cache).expanduser() / "mamlpp_jax"


def _from_cache(path: Path, name: str, size: int) -> Dataset | None:
    """Returns the cached data set, or None when it has to be made."""
    try:
        if not path.exists():
            return None
        dataset = dataset_lib.load(path)
        if dataset.name != name or dataset.images.shape[1:3] != (size, size):
            raise DataError(
                f"Data set file {path} holds {dataset.name!r} pictures of the shape "
                f"{dataset.images.shape[1:]}; it must hold {name!r} at {size}x{size} pixels."
            )
    except (DataError, OSError) as error:
        logging.warning("The cached data set is made again: %s", error)
        return None
    return dataset


def _make_writable(folder: Path) -> None:
    """Makes the cache folder, before minutes are spent on what could not be kept."""
    problem = "it is not writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return
    except OSError as error:
        problem = str(error)
    raise ConfigError(
        f"data.cache_dir: the cache folder {folder} cannot be used ({problem}); set data.cache_dir "
        "to a folder that can be made and written."
    )


def _to_cache(dataset: Dataset, path: Path) -> None:
    try:
        dataset_lib.save(dataset, path)
    except OSError as error:
        raise DataError(
            f"data.cache_dir: {path} cannot be written ({error}); set data.cache_dir to a folder "
            "with enough room."
        ) from error
