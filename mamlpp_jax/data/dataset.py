"""The form that every data set takes, its ``.npz`` file and its fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import zipfile
from pathlib import Path

import numpy as np

from mamlpp_jax.errors import DataError
from mamlpp_jax.utils.files import atomic_open

SPLITS = ("train", "val", "test")
_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images grouped by class: those of class c are rows ``sum(class_sizes[:c])`` to ``sum(class_sizes[:c + 1])``.

    Parts that do not fit each other raise a `DataError`.
    """

    name: str  # `data.name`; part of reports
    # uint8 [T, H, W, C], in the order of ``class_names``. Written characters are inverted: ink 255, paper 0.
    images: np.ndarray
    class_names: tuple[str, ...]  # unique and sorted, so that every source gives the same split
    class_sizes: np.ndarray  # int32 [num_classes], images per class; they may differ
    # The published split of each class, one of ``SPLITS``; empty where the configuration splits the classes.
    class_splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise DataError(f"Data set {self.name!r}: {problem}.")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def _problem(self) -> str | None:
        """The first inconsistency and what is allowed instead; None when there is none."""
        images, sizes, names = self.images, self.class_sizes, self.class_names
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
            return f"images are {_described(images)}; they must be a uint8 array [T, H, W, C]"
        if not isinstance(sizes, np.ndarray) or sizes.dtype != np.int32 or sizes.ndim != 1:
            return f"class_sizes are {_described(sizes)}; they must be int32 [num_classes]"
        if images.shape[3] not in (1, 3) or 0 in images.shape:
            return f"images have the shape {images.shape}; C must be 1 or 3, none empty"
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            return "class_names are no tuple of strings; they must be one"
        if any(a >= b for a, b in itertools.pairwise(names)):
            return "class_names are out of order or repeated; they must be sorted, unique"
        if len(names) != len(sizes):
            return f"{len(names)} class_names but {len(sizes)} class_sizes; they must be as many"
        if self.class_splits and (
            len(self.class_splits) != len(names) or not set(self.class_splits) <= set(SPLITS)
        ):
            return f"class_splits do not fit; each class needs one of {', '.join(SPLITS)}, or none"
        if (sizes < 1).any() or int(sizes.sum(dtype=np.int64)) != len(images):
            return (
                f"class_sizes (smallest {sizes.min(initial=0)}, sum {sizes.sum()}) do not fit "
                f"{len(images)} images; each must be at least 1 and their sum the number of images"
            )
        return None


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"of type {type(value).__name__}"


def fingerprint(dataset: Dataset) -> str:
    """SHA-256, in hexadecimal, of every image and of its class and published split, not of the data set's name."""
    digest = hashlib.sha256(repr((dataset.class_names, dataset.class_splits)).encode())
    digest.update(repr((dataset.images.shape, dataset.class_sizes.tolist())).encode())
    digest.update(dataset.images.data)
    return digest.hexdigest()


def save(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Writes a data set to one ``.npz`` file, atomically; the folder must exist."""
    with atomic_open(Path(path)) as file:
        np.savez(
            file,
            format=np.int32(_FORMAT),
            name=np.str_(dataset.name),
            images=dataset.images,
            class_names=np.array(dataset.class_names, dtype=np.str_),
            class_sizes=dataset.class_sizes,
            class_splits=np.array(dataset.class_splits, dtype=np.str_),
        )


def load(path: str | os.PathLike[str]) -> Dataset:
    """Reads a data set written by `save`; any other file is a `DataError`."""
    try:
        with Path(path).open("rb") as file:
            # np.load also accepts a single array, which has no checksum.
            if not zipfile.is_zipfile(file):
                raise ValueError("not a complete zip archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                if int(archive["format"]) != _FORMAT:
                    raise ValueError(f"format {archive['format']} instead of {_FORMAT}")
                return Dataset(
                    name=str(archive["name"]),
                    images=archive["images"],
                    class_names=tuple(archive["class_names"].tolist()),
                    class_sizes=archive["class_sizes"],
                    class_splits=tuple(archive["class_splits"].tolist()),
                )
    except FileNotFoundError as error:
        raise DataError(f"Data set file {path} does not exist.") from error
    except Exception as error:  # A damaged header can make NumPy raise anything.
        raise DataError(
            f"Data set file {path} is broken ({error}); it must be a complete .npz written by this "
            "version of the project. Delete it to have it made again."
        ) from error
