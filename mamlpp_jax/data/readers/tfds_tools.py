"""Prepared TFDS directories, read without TensorFlow. TFDS is imported only where one is read."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mamlpp_jax.errors import DataError

# The extra `tfds`. TFDS imports the others late, when their absence would look like a broken data set.
MODULES = ("array_record", "importlib_resources", "tensorflow_datasets")
INFO_FILE = "dataset_info.json"  # written last by TFDS: a version that has it is complete


def import_tfds(dataset: str) -> Any:
    """Imports TFDS for the data set of this name, or raises a `DataError` where it is not installed completely."""
    try:
        return [importlib.import_module(name) for name in MODULES][-1]
    except ImportError as error:
        raise DataError(
            f"Reading {dataset} as prepared by TFDS needs packages that are not all there ({error}); install them with "
            "pip install 'mamlpp_jax[tfds]'."
        ) from error


@contextmanager
def wrap_tfds_errors(folder: Path) -> Iterator[None]:
    """Turns any error inside the block into a `DataError` that names the folder of a prepared version."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # TFDS, array_record and protobuf have no common base class.
        raise DataError(
            f"{folder} cannot be read by TFDS ({type(error).__name__}: {error}); it must be complete and in the "
            "file format array_record."
        ) from error


def latest_version(folder: Path) -> Path | None:
    """The newest complete version in a data set's folder; None when there is none."""

    def numbers(path: Path) -> list[tuple[int, str]]:
        return [(int(part) if part.isdigit() else -1, part) for part in path.name.split(".")]

    versions = (path.parent for path in folder.glob(f"*.*.*/{INFO_FILE}"))
    return max(versions, key=numbers, default=None)


def encoded_examples(
    builder: Any, image_key: str, splits: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the position of each example, for errors, and the example with its image still encoded.

    TFDS would decode `image_key` with whichever library is installed, and their pixels differ.
    """
    tfds = import_tfds(builder.name)
    decoders = {image_key: tfds.decode.SkipDecoding()}
    for split in splits:
        source = builder.as_data_source(split=split, decoders=decoders)
        for index, example in enumerate(source):
            yield f"{builder.data_path}:{split}[{index}]", example
