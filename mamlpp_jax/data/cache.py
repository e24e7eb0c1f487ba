"""The cache of data sets: one ``.npz`` file each, made by one process while the others wait."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from absl import logging

from mamlpp_jax.data import dataset as dataset_lib
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.errors import ConfigError, DataError
from mamlpp_jax.utils.files import remove_unfinished
from mamlpp_jax.utils.locks import one_at_a_time
from mamlpp_jax.utils.terminal import phase


class CacheKey(NamedTuple):
    """Identifies a cached data set; the cache file is named after it."""

    name: str  # data.name
    identity: str  # distinguishes data sets with the same name; "" where there is one only
    image_size: int  # height and width in pixels
    version: int  # raised when a source starts to give other arrays for the same settings

    @property
    def stem(self) -> str:
        """The part of the file name that all sizes and versions share."""
        name = self.name.replace(":", "-").replace("/", "-")
        return f"{name}-{self.identity}" if self.identity else name

    @property
    def file_name(self) -> str:
        """Name of the cache file."""
        return f"{self.stem}-{self.image_size}px-v{self.version}.npz"


def cache_folder(cache_dir: str) -> Path:
    """`data.cache_dir`, or where that is "" ``mamlpp_jax`` in the user's cache folder; it need not exist."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user_cache).expanduser() / "mamlpp_jax"


def load_or_make(
    folder: Path, key: CacheKey, make: Callable[[], Dataset], source_dir: str = ""
) -> Dataset:
    """Returns a data set from its cache file, which is made with `make` when it is missing or broken.

    Other processes that need a data set with the same name and identity wait meanwhile. When the cache is used, the
    log says that `source_dir` is not read.

    Raises:
        ConfigError: the data set has to be made and the folder is not writable.
        DataError: the cache file cannot be written, or whatever `make` raises.
    """
    path = folder / key.file_name
    if dataset := _read(path, key, report=False):
        if source_dir:
            logging.info(
                "The cache is used; %s is not read (remove %s to read it).", source_dir, path
            )
        return dataset
    _require_writable(folder)
    with one_at_a_time(folder / f"{key.stem}.lock", f"making the data set {key.name}"):
        dataset = _read(path, key)  # Another process may have made it meanwhile.
        if dataset is None:
            remove_unfinished(folder, path.name)
            with phase(f"making the data set {key.name} at {key.image_size} pixels"):
                dataset = make()
            with phase(f"writing {path}"):
                try:
                    dataset_lib.save(dataset, path)
                except OSError as error:
                    raise DataError(
                        f"data.cache_dir: {path} cannot be written ({error}); set data.cache_dir to a folder "
                        "with enough room."
                    ) from error
    return dataset


def _read(path: Path, key: CacheKey, report: bool = True) -> Dataset | None:
    """Reads a cache file; None, with a warning if wanted, when it is broken or holds another data set."""
    size = key.image_size
    try:
        if not path.exists():
            return None
        with phase(f"reading the data set {key.name}"):
            dataset = dataset_lib.load(path)
        if dataset.name != key.name or dataset.images.shape[1:3] != (size, size):
            raise DataError(
                f"Data set file {path} holds {dataset.name!r} images of the shape "
                f"{dataset.images.shape[1:]}; it must hold {key.name!r} at {size}x{size} pixels."
            )
    except (DataError, OSError) as error:
        if report:
            logging.warning("The cached data set is made again: %s", error)
        return None
    return dataset


def _require_writable(folder: Path) -> None:
    """Fails before a data set is made that could not be stored."""
    problem = "it is not writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return
    except OSError as error:
        problem = "a file is in its place" if folder.is_file() else error.strerror or str(error)
    raise ConfigError(
        f"data.cache_dir: the cache folder {folder} cannot be used ({problem}); set data.cache_dir "
        "to a folder that can be made and written."
    )
