"""Folders of images as people have them, by class; one that is missing or cannot be read is reported as a `DataError`.

A class is a folder that has images in it. Class folders may lie some levels deep: below the folder that an archive
was unpacked to, below ``images``, or in groups as ``Alphabet/character01``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from absl import logging
from PIL import Image

from mamlpp_jax.data.dataset import SPLITS
from mamlpp_jax.data.readers.images import SUFFIXES, decode_rgb
from mamlpp_jax.errors import DataError, listed

Tree = dict[PurePosixPath, list[Path]]  # sorted image files by their folder, relative to the root

_IGNORED = "__MACOSX"  # beside what macOS packs
_DEPTH = 6
_SPLIT_NAMES = {
    "train": ("train", "training", "base"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "novel"),
}


def split_of(name: str) -> str:
    """The split that the name of a folder or list stands for, such as "val" for "Validation"; "" for none."""
    plain = name.lower().removeprefix("meta").lstrip("-_")
    return next((split for split, names in _SPLIT_NAMES.items() if plain in names), "")


def scan_images(folder: Path, used: Collection[Path] = ()) -> Tree:
    """The image files in and below a folder; warns of other files, except hidden and used ones."""
    tree: Tree = {}
    strays: list[str] = []
    empty: list[str] = []

    def fail(error: OSError) -> None:
        raise DataError(
            f"The folder {error.filename} cannot be read ({error.strerror or error})."
        ) from error

    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        inside = PurePosixPath(Path(root).relative_to(folder).as_posix())
        deep = len(inside.parts) >= _DEPTH
        folders[:] = sorted(
            n for n in folders if not n.startswith(".") and n != _IGNORED and not deep
        )
        paths = [Path(root, name) for name in sorted(names) if not name.startswith(".")]
        images = [p for p in paths if p.suffix.lower() in SUFFIXES and p.is_file()]
        strays += [(inside / p.name).as_posix() for p in paths if p not in {*images, *used}]
        if images:
            if not str(inside).isprintable():
                raise DataError(
                    f"The class folder {root!r} has a name with unprintable characters; rename it."
                )
            tree[inside] = images
        elif not folders and inside.parts:
            empty.append(inside.as_posix())
    report_strays(folder, strays)
    if empty:
        logging.warning(
            f"{folder}: {len(empty)} folders have no image ({' '.join(sorted(SUFFIXES))}) and are left out: "
            f"{listed(empty)}."
        )
    return tree


def scan_classes(folder: Path) -> dict[str, list[Path]]:
    """Sorted image files by class name, classes sorted."""
    return classes_of(folder, scan_images(folder))


def classes_of(folder: Path, tree: Tree) -> dict[str, list[Path]]:
    """The classes in a tree; each is named by its folder, without the folders that all of them share."""
    top, inner = _descend(folder, tree)
    classes = {str(path): files for path, files in inner.items() if path.parts}
    if not classes:
        files = next(iter(inner.values()), [])
        raise DataError(
            f"{top} has no class folders; it must have one for each class of images, or lists of "
            f"filename,label: {' '.join(f'{split}.csv' for split in SPLITS)}."
            + (f" It has {len(files)} images outside of any." if files else _archives(top))
        )
    if loose := inner.get(PurePosixPath()):
        report_strays(top, [path.name for path in loose])
    return dict(sorted(classes.items()))


def split_folders(folder: Path, tree: Tree) -> dict[str, tuple[Path, Tree]]:
    """The folder of each split and its tree; {} where the folders are those of classes.

    Raises:
        DataError: the folders are splits, but not all of them are there.
    """
    top, inner = _descend(folder, tree)
    names = {path.parts[0] for path in inner if path.parts}
    by_split = {split_of(name): name for name in sorted(names, reverse=True) if split_of(name)}
    if by_split.keys() < set(SPLITS) and len(by_split) > 1 and len(names) == len(by_split):
        raise DataError(
            f"{top} has the folders {', '.join(sorted(names))} only; class folders in splits need all of "
            f"{', '.join(SPLITS)}. To have the classes of one folder split for you, use "
            f"data.manual_dir={top / by_split[min(by_split, key=SPLITS.index)]}."
        )
    if by_split.keys() != set(SPLITS):
        return {}
    report_strays(top, sorted(names - set(by_split.values())))
    return {split: (top / by_split[split], _below(inner, by_split[split])) for split in SPLITS}


def _descend(folder: Path, tree: Tree) -> tuple[Path, Tree]:
    """The folder that classes or splits lie in, and its tree.

    A folder that is alone, and no class itself, only wraps others; one called images goes before annotations.
    """
    while True:
        names = sorted({path.parts[0] for path in tree if path.parts})
        wrappers = names if len(names) == 1 else [n for n in names if n.lower() == "images"]
        if len(wrappers) != 1 or PurePosixPath(wrappers[0]) in tree:
            return folder, tree
        report_strays(folder, [name for name in names if name not in wrappers])
        report_strays(folder, [path.name for path in tree.get(PurePosixPath(), ())])
        folder, tree = folder / wrappers[0], _below(tree, wrappers[0])


def _below(tree: Tree, name: str) -> Tree:
    return {
        PurePosixPath(*path.parts[1:]): files
        for path, files in tree.items()
        if path.parts[:1] == (name,)
    }


def _archives(folder: Path) -> str:
    names = [
        p.name for p in sorted(folder.glob("*")) if p.suffix in (".zip", ".tar", ".gz", ".tgz")
    ]
    return f" Unpack {listed(names)} first." if names else ""


def report_strays(folder: Path, strays: Iterable[str]) -> None:
    """Warns of files or folders that are not used."""
    strays = list(strays)
    if strays:
        logging.warning("%s: %d entries are not used, such as %s.", folder, len(strays), strays[0])


def read_rgb(path: Path) -> Image.Image:
    """Reads and decodes an image file, see `decode_rgb`."""
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    return decode_rgb(encoded, str(path))
