"""Images that lists name: ``filename,label``, in any folder or in zip archives."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from absl import logging

from mamlpp_jax.data.readers.archives import open_zip, read_member
from mamlpp_jax.data.readers.class_folders import Tree, read_rgb, report_strays
from mamlpp_jax.data.readers.csv_files import read_csv
from mamlpp_jax.data.readers.images import SUFFIXES, ImageLoader, decode_rgb
from mamlpp_jax.data.readers.layout import Layout, Listing, checked
from mamlpp_jax.errors import DataError

_Place = tuple[Path, str]  # of an image: its file and "", or an archive and the name of a member

_COLUMNS = ("filename", "file", "image", "path"), ("label", "class")  # of names and of classes


def csv_layout(folder: Path, tree: Tree, lists: dict[str, Path]) -> Layout:
    """The images of a folder, whose image files `tree` has, by the list of each split, or by one list under ""."""
    places = _places(folder, tree)
    by_split: dict[str, dict[str, list[_Place]]] = {}
    listing: Listing = {}
    split_with: dict[_Place, Path] = {}
    for split, path in lists.items():
        listing[split] = _read_list(path)
        by_split[split] = {}
        for label, names in listing[split].items():
            # Names may repeat from class to class.
            at = [places.get(f"{label}/{name}") or places.get(name) for name in names]
            if missing := [name for name, place in zip(names, at, strict=True) if place is None]:
                raise DataError(
                    f"{path} lists {missing[0]} of class {label}, which is in no folder and no zip archive of "
                    f"{folder} ({len(missing)} of this class are missing)."
                )
            by_split[split][label] = [place for place in at if place is not None]
            for place, name in zip(by_split[split][label], names, strict=True):
                if (other := split_with.setdefault(place, path)) != path:
                    raise DataError(
                        f"{path} lists {name}, which {other} lists too; splits must not share images."
                    )
    report_strays(
        folder, sorted({n for n, p in places.items() if p not in split_with and "/" not in n})
    )

    def read(split: str) -> Iterator[tuple[str, list[ImageLoader]]]:
        with contextlib.ExitStack() as stack:
            open_once = functools.cache(lambda path: stack.enter_context(open_zip(path)))

            def loader(path: Path, member: str) -> ImageLoader:
                if not member:
                    return partial(read_rgb, path)
                return partial(decode_rgb, read_member(open_once(path), member), f"{path}:{member}")

            for class_name, at in by_split[split].items():
                yield class_name, [loader(*place) for place in at]

    files = [*lists.values(), *dict.fromkeys(path for path, _ in split_with)]
    return Layout(checked(listing, lists), read, lists, files)


def _read_list(path: Path) -> dict[str, list[str]]:
    """Reads ``filename,label`` lines; a repeated line counts once and is reported."""
    at = columns(path)
    assert at is not None
    label_of: dict[str, str] = {}
    repeated: list[str] = []
    for number, row in enumerate(read_csv(path)[1:], start=2):
        if len(row) <= max(at) or not all(row[column] for column in at):
            raise DataError(f"{path}, line {number}: {','.join(row)!r} has no file name and class.")
        name, label = (row[column].strip() for column in at)
        if label_of.setdefault(name, label) != label:
            raise DataError(
                f"{path}, line {number}: {name} is listed as {label} and as {label_of[name]}."
            )
        repeated += [name] if number - 1 > len(label_of) + len(repeated) else []
    if repeated:
        logging.warning("%s lists %d images twice, such as %s.", path, len(repeated), repeated[0])
    classes: dict[str, list[str]] = {}
    for name, label in label_of.items():
        classes.setdefault(label, []).append(name)
    return dict(sorted(classes.items()))


def _places(folder: Path, tree: Tree) -> dict[str, _Place]:
    """The place of each image by its name, and by its name behind one folder or several."""
    places: dict[str, _Place] = {}
    repeated: list[str] = []

    def add(inside: PurePosixPath, place: _Place) -> None:
        for start in range(len(inside.parts)):
            name = "/".join(inside.parts[start:])
            if places.setdefault(name, place) != place and "/" not in name:
                repeated.append(f"{place[0]}:{place[1]}".rstrip(":"))

    for parent, files in tree.items():
        for path in files:
            add(parent / path.name, (path, ""))
    if not tree:
        for path in sorted(folder.glob("*.zip")):
            with open_zip(path) as archive:
                for member in map(PurePosixPath, archive.namelist()):
                    if member.suffix.lower() in SUFFIXES and member.parts[0] != "__MACOSX":
                        add(member, (path, str(member)))
    if not places:
        raise DataError(
            f"{folder} has neither images nor a zip archive of them; those that its lists name must be there."
        )
    if repeated:
        logging.warning(
            "%s: %d names of images are there twice, such as that of %s; without its class, a name means the first.",
            *(folder, len(repeated), repeated[0]),
        )
    return places


def columns(path: Path) -> tuple[int, int] | None:
    """The columns of a list's file names and labels; None where its first line does not name them."""
    rows = read_csv(path)
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    files, labels = ([header.index(n) for n in names if n in header] for names in _COLUMNS)
    return (files[0], labels[0]) if files and labels else None
