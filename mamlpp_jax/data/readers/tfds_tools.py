"""What the sources that read through TFDS share; TFDS is imported only when one of them is used."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mamlpp_jax.errors import DataError

INFO_FILE = "dataset_info.json"  # what TFDS writes last: a version that has it is complete


def import_tfds(what: str) -> Any:
    """Imports TFDS.

    Args:
        what: the data set it is needed for, for the message.

    Raises:
        DataError: it is not installed completely.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f"Reading {what} from its source needs TFDS, which cannot be imported ({error}); "
            "install tensorflow-datasets, array_record and importlib_resources."
        ) from error
    return tensorflow_datasets


def prepare(
    make_builder: Callable[[], Any], version: Path, manual_dir: Path | None, what: str
) -> None:
    """Lets a builder of ours prepare a data set, without TensorFlow.

    Args:
        make_builder: makes the builder.
        version: the folder it prepares into, which no other process may use; an earlier preparation
            there is replaced.
        manual_dir: folder of the raw files; only read.
        what: the data set's name, for messages.

    Raises:
        DataError: the raw files are broken, or the preparation cannot be written.
    """
    tfds = import_tfds(what)
    # Removed first: TFDS would read a broken earlier preparation before replacing it; and what a preparation
    # that was killed left behind.
    for earlier in (version, *version.parent.glob(f"incomplete.*_{version.name}")):
        shutil.rmtree(earlier, ignore_errors=True)
    tfds.disable_progress_bar()
    try:
        # TFDS prints what it does; standard output belongs to the command line's results.
        with contextlib.redirect_stdout(sys.stderr):
            make_builder().download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(
                    manual_dir=manual_dir, try_download_gcs=False
                ),
            )
    except DataError:
        raise
    except Exception as error:  # TFDS, array_record and protobuf share no base class
        raise DataError(
            f"TFDS cannot prepare {what} from {manual_dir} in {version}: {error}"
        ) from error


def latest_version(folder: Path) -> Path | None:
    """Returns the newest complete version below a builder's folder, or None."""

    def numbers(path: Path) -> list[tuple[int, str]]:
        return [(int(part) if part.isdigit() else -1, part) for part in path.parent.name.split(".")]

    found = sorted(folder.glob(f"*.*.*/{INFO_FILE}"), key=numbers)
    return found[-1].parent if found else None


def encoded_examples(
    builder: Any, image_key: str, splits: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields where each example lies and the example, its picture still encoded.

    TFDS would decode with whichever library is installed, and their pixels differ.
    """
    tfds = import_tfds(builder.name)
    decoders = {image_key: tfds.decode.SkipDecoding()}
    for split in splits:
        source = builder.as_data_source(split=split, decoders=decoders)
        for index, example in enumerate(source):
            yield f"{builder.data_path}:{split}[{index}]", example
