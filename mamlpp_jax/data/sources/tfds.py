"""Any prepared TFDS image classification data set: ``data.name = "tfds:<name>"``.

The name may have a configuration and a version, as in TFDS: ``tfds:<name>/<configuration>:<version>``. The
examples of the TFDS splits train, validation and test are pooled (of all splits where it has none of these), and
its classes are split by fraction, by number or by a list file. TensorFlow is not needed.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.readers import tfds_tools
from mamlpp_jax.data.readers.images import decode_rgb, square_rgb, with_channels
from mamlpp_jax.errors import ConfigError, DataError

PREFIX = "tfds:"
_USUAL_SPLITS = ("train", "validation", "val", "test")
_NAME = re.compile(r"tfds:(?P<folder>\w+(/[\w+-][\w.+-]*)?)(:(?P<version>\d+\.\d+\.\d+))?")


def identity(data_config: Any) -> str:
    """Identifies a prepared data set by its metadata and class names, wherever it lies."""
    folder = _version_folder(data_config.name, data_config.tfds_dir)
    digest = hashlib.sha256()
    described = (folder / tfds_tools.INFO_FILE, folder / "features.json")
    for path in (*described, *sorted(folder.glob("*.labels.txt"))):
        digest.update(path.read_bytes() if path.is_file() else b"")
    return f"{digest.hexdigest()[:12]}-c{int(data_config.channels)}"


def build(data_config: Any, name: str = "") -> Dataset:
    """Reads a prepared data set, `data_config.name` or another one; `tfds_dir` is "" for TFDS's own default.

    The classes that have images are in name order, the images of a class in the order of TFDS's splits.
    """
    name = name or data_config.name
    folder = _version_folder(name, data_config.tfds_dir)
    tfds = tfds_tools.import_tfds(name)
    logging.info("Reading %s as prepared in %s.", name, folder)
    with tfds_tools.wrap_tfds_errors(folder):
        builder = tfds.builder_from_directory(folder)
        image_key, label_key = _keys(tfds, builder, folder)
        by_label = _squares_by_label(builder, image_key, label_key, int(data_config.image_size))
        names = builder.info.features[label_key].names
    if not by_label:
        raise DataError(f"{folder} has no examples.")
    by_class = {names[label]: by_label[label] for label in by_label}
    class_names = tuple(sorted(by_class))
    squares = np.stack([square for name in class_names for square in by_class[name]])
    sizes = np.array([len(by_class[name]) for name in class_names], np.int32)
    return Dataset(name, with_channels(squares, int(data_config.channels)), class_names, sizes)


def _squares_by_label(
    builder: Any, image_key: str, label_key: str, size: int
) -> dict[int, list[np.ndarray]]:
    """Images [size, size, 3] by label; TFDS marks an unlabelled one with -1."""
    result: dict[int, list[np.ndarray]] = {}
    unlabelled = 0
    for origin, example in tfds_tools.encoded_examples(builder, image_key, _splits(builder)):
        label = int(example[label_key])
        if label < 0:
            unlabelled += 1
            continue
        image = square_rgb(decode_rgb(example[image_key], origin), size)
        result.setdefault(label, []).append(image)
    if unlabelled:
        logging.warning(
            "%s has %d images without a label, which are not used.", builder.name, unlabelled
        )
    return result


def _splits(builder: Any) -> list[str]:
    """The TFDS splits to read: the usual ones, whose images others may repeat; else all."""
    names = sorted(builder.info.splits)
    usual = [name for name in names if name in _USUAL_SPLITS]
    skipped = sorted(set(names) - set(usual or names))
    if skipped:
        logging.warning(
            "%s: the TFDS splits %s are read, not %s.",
            *(builder.name, ", ".join(usual), ", ".join(skipped)),
        )
    return usual or names


def _keys(tfds: Any, builder: Any, folder: Path) -> tuple[str, str]:
    """Names of the image and label features: the supervised pair, or the only ones of their types."""
    features = dict(builder.info.features.items())
    image, label = (*(builder.info.supervised_keys or ()), None, None)[:2]
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if image in images and label in labels:
        return image, label
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f"{folder} has the features {', '.join(features)}; to be an image classification data set it must "
            "have one image and one class label."
        )
    return images[0], labels[0]


def _version_folder(name: str, tfds_dir: str) -> Path:
    """The folder of the requested version, or of the newest one."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(
            f"data.name is {name!r}; a TFDS data set is named tfds:<name>, "
            "tfds:<name>/<configuration> or either with :<version>, such as tfds:cifar100 or tfds:mnist:3.0.1."
        )
    root = Path(tfds_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    base = root / match["folder"]
    if match["version"]:
        wanted = base / match["version"]
        if (wanted / tfds_tools.INFO_FILE).is_file():
            return wanted
    elif version := tfds_tools.latest_version(base):
        return version
    return _only_configuration(name, root, base)


def _only_configuration(name: str, root: Path, base: Path) -> Path:
    """The newest version of the only configuration, which need not be named."""
    folders = (path for path in base.glob("*") if path.is_dir())
    versions = {path.name: v for path in folders if (v := tfds_tools.latest_version(path))}
    if len(versions) == 1 and name.count(":") == 1:
        return next(iter(versions.values()))
    hint = f" It has {', '.join(sorted(versions))}." if versions else ""
    raise DataError(
        f"data.tfds_dir: {root} holds no prepared {name.removeprefix(PREFIX)} ({base} has no complete version).{hint} "
        f'Prepare it once, where TensorFlow is installed if its builder needs it: python -c "import '
        f"tensorflow_datasets as tfds; tfds.builder('{name.removeprefix(PREFIX)}', data_dir='{root}')"
        ".download_and_prepare(file_format='array_record')\"."
    )
