"""The layouts of image sets with classes, and perhaps with splits, read alike.

- folders of images, one per class, in any of the depths of `class_folders`; below train, val and test (or
  validation, base, novel ...) they have splits;
- the same with lists of the classes of each split, ``splits/train.txt`` and so on, a class per line;
- ``train.csv``, ``val.csv`` and ``test.csv`` with ``filename,label``, or one such file of all images, and the images
  in any folder or in zip archives;
- pickles of each split: mini-ImageNet's (``image_data``, ``class_dict``), CIFAR-FS's and FC100's (``data``,
  ``labels``), and tieredImageNet's (``train_images_png.pkl`` with ``train_labels.pkl``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from mamlpp_jax.data.dataset import SPLITS
from mamlpp_jax.data.readers.class_folders import (
    Tree,
    classes_of,
    read_rgb,
    report_strays,
    scan_images,
    split_folders,
    split_of,
)
from mamlpp_jax.data.readers.csv_files import read_csv
from mamlpp_jax.data.readers.csv_layout import columns, csv_layout
from mamlpp_jax.data.readers.images import ImageLoader
from mamlpp_jax.data.readers.layout import Layout, checked
from mamlpp_jax.data.readers.pickle_layout import IMAGES_PNG, pickle_layout
from mamlpp_jax.errors import DataError, listed

_LISTS = (".csv", ".pickle", ".pkl", ".txt")


def find_layout(folder: Path) -> Layout:
    """Recognises the layout of a folder, which is only read.

    Raises:
        DataError: there is none, or files are missing or contradict each other; says what to do.
    """
    if not folder.is_dir():
        raise DataError(
            f"data.manual_dir: {folder} is no folder; it must have a folder of images per class."
        )
    lists = _lists(folder)
    if pickles := _by_split(lists, (".pkl", ".pickle")):
        return pickle_layout(pickles)
    tables, texts = _by_split(lists, (".csv",)), _by_split(lists, (".txt",))
    tree = scan_images(folder, {*tables.values(), *texts.values()})
    if tables and all(map(columns, tables.values())):
        return csv_layout(folder, tree, tables)
    if texts:
        return _list_layout(folder, tree, texts)
    if splits := split_folders(folder, tree):
        return _folder_layout(
            {split: classes_of(*place) for split, place in splits.items()},
            {split: place[0] for split, place in splits.items()},
        )
    if len(tree) < 2:
        single = [path for path in sorted(folder.glob("*.csv")) if columns(path)]
        if len(single) == 1 and not split_of(single[0].stem):
            return csv_layout(folder, tree, {"": single[0]})
        if lists:
            raise DataError(
                f"{folder} has {listed(path.name for path in lists)}; lists and pickles must be there for all of "
                f"{', '.join(SPLITS)}, and lists of images begin with the line 'filename,label'."
            )
    return _folder_layout({"": classes_of(folder, tree)}, {"": folder})


def _lists(folder: Path) -> list[Path]:
    """The files named after a split, as in ``CIFAR_FS_val.pickle``, which are no images."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in _LISTS
        and not path.name.startswith(".")
        and not path.stem.endswith("_labels")
        and _split_of_list(path)
    ]


def _split_of_list(path: Path) -> str:
    return split_of(re.split(r"[-_]", path.stem.removesuffix(IMAGES_PNG))[-1])


def _by_split(lists: list[Path], suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The lists of these types in the first folder that has one of each split; {} without such a folder."""
    by_folder: dict[Path, dict[str, Path]] = {}
    for path in lists:
        if path.suffix in suffixes:
            by_folder.setdefault(path.parent, {})[_split_of_list(path)] = path
    whole = [of for of in by_folder.values() if of.keys() == set(SPLITS)]
    for other in whole[1:]:
        report_strays(other["train"].parent, [path.name for path in other.values()])
    return {split: whole[0][split] for split in SPLITS} if whole else {}


def _folder_layout(
    paths: Mapping[str, Mapping[str, list[Path]]], origins: dict[str, Path]
) -> Layout:
    listing = {
        split: {name: [f"{name}/{path.name}" for path in files] for name, files in classes.items()}
        for split, classes in paths.items()
    }

    def read(split: str) -> Iterator[tuple[str, list[ImageLoader]]]:
        for class_name, files in paths[split].items():
            yield class_name, [partial(read_rgb, path) for path in files]

    every = [path for classes in paths.values() for files in classes.values() for path in files]
    return Layout(checked(listing, origins), read, origins, every)


def _list_layout(folder: Path, tree: Tree, lists: dict[str, Path]) -> Layout:
    """Class folders, and the classes of each split in a list."""
    classes = classes_of(folder, tree)
    by_end = {name.rpartition("/")[2]: name for name in classes} | {name: name for name in classes}
    paths: dict[str, dict[str, list[Path]]] = {}
    for split, path in lists.items():
        names = [row[0].strip().strip("/") for row in read_csv(path)]
        if unknown := [name for name in names if name not in by_end]:
            raise DataError(
                f"{path} lists {unknown[0]!r}, which is no folder of images in {folder}; each line must name a class, "
                f"such as {next(iter(classes))!r}. Move the file away to have classes split for you."
            )
        paths[split] = {name: classes[name] for name in sorted({by_end[n] for n in names})}
    unused = classes.keys() - {name for members in paths.values() for name in members}
    report_strays(folder, sorted(unused))
    layout = _folder_layout(paths, lists)
    return layout._replace(files=[*lists.values(), *layout.files])
