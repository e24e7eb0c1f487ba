"""Sets of photographs published with few-shot splits, read from the layouts in which people have them.

mini-ImageNet (Ravi & Larochelle, ICLR 2017), CIFAR-FS (Bertinetto et al., ICLR 2019), FC100 (Oreshkin et al., NeurIPS
2018), CUB (Welinder et al., 2010; split of Chen et al., ICLR 2019) and tieredImageNet (Ren et al., ICLR 2018). None
is downloaded. The images of a class are ordered by their pixels, so layouts that hold the same pixels give the same
arrays, up to the names of classes, which pickles of CIFAR-FS, FC100 and tieredImageNet lack.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from mamlpp_jax.data.dataset import SPLITS, Dataset
from mamlpp_jax.data.readers.layout import Layout, load_layout
from mamlpp_jax.data.readers.layouts import find_layout
from mamlpp_jax.errors import DataError

_CIFAR_FS = {
    "val": "beaver otter flatfish shark lamp television beetle butterfly sea camel cattle crab crocodile maple_tree "
    "motorcycle tractor",
    "test": "whale poppy rose sweet_pepper telephone bed table wardrobe leopard plain chimpanzee fox snail worm baby "
    "man woman bicycle pickup_truck rocket",
}
# By superclass: fish .. in validation; aquatic mammals, insects, medium mammals and people in the test.
_FC100 = {
    "val": "bear leopard lion tiger wolf camel cattle chimpanzee elephant kangaroo crab lobster snail spider worm "
    "hamster mouse rabbit shrew squirrel",
    "test": "beaver dolphin otter seal whale bee beetle butterfly caterpillar cockroach fox porcupine possum raccoon "
    "skunk baby boy girl man woman",
}


def _by_name(held_out: Mapping[str, str]) -> Callable[[Sequence[str]], list[str]]:
    split_of = {name: split for split, names in held_out.items() for name in names.split()}
    return lambda names: [split_of.get(name, "train") for name in names]


def _every_fourth(names: Sequence[str]) -> list[str]:
    """Chen et al.'s split of CUB: every second class trains, the others validate and test in turn."""
    return [("train", "val", "train", "test")[index % 4] for index in range(len(names))]


class Published(NamedTuple):
    """A data set.

    Attributes:
        title: its name in texts.
        classes: numbers of classes by split.
        images: number of all images.
        terms: why it is not downloaded, or where it is.
        split: class names in order -> their splits, for class folders without splits; None where these are needed.
        per_class: images of every class; 0 where classes differ.
    """

    title: str
    classes: Mapping[str, int]
    images: int
    terms: str
    split: Callable[[Sequence[str]], list[str]] | None = None
    per_class: int = 0


def _counts(train: int, val: int, test: int) -> dict[str, int]:
    return dict(zip(SPLITS, (train, val, test), strict=True))


_CIFAR = "it is made of CIFAR-100, which lies at https://www.cs.toronto.edu/~kriz/cifar.html"
PUBLISHED = {
    "mini_imagenet": Published(
        "mini-ImageNet", _counts(64, 16, 20), 60_000, "ImageNet's terms forbid it", per_class=600
    ),
    "cifar_fs": Published(
        "CIFAR-FS", _counts(64, 16, 20), 60_000, _CIFAR, _by_name(_CIFAR_FS), per_class=600
    ),
    "fc100": Published(
        "FC100", _counts(60, 20, 20), 60_000, _CIFAR, _by_name(_FC100), per_class=600
    ),
    "cub": Published(
        "CUB",
        _counts(100, 50, 50),
        11_788,
        "it lies at https://data.caltech.edu/records/65de6-vp158",
        _every_fourth,
    ),
    "tiered_imagenet": Published(
        "tieredImageNet", _counts(351, 97, 160), 779_165, "ImageNet's terms forbid it"
    ),
}


def build(data_config: Any) -> Dataset:
    """Reads colour images, with the published splits, from ``data.manual_dir``, or CIFAR-100 from ``data.tfds_dir``."""
    name, about, size = data_config.name, PUBLISHED[data_config.name], int(data_config.image_size)
    if data_config.tfds_dir:
        return _from_tfds(data_config, about)
    if not data_config.manual_dir:
        raise DataError(
            f"{about.title} is not downloaded ({about.terms}); set data.manual_dir to its folder, which has train, val "
            "and test with a folder of images per class, lists such as train.csv beside the images, or the pickles in "
            "which it is passed on."
        )
    folder = Path(data_config.manual_dir).expanduser()
    logging.info("Reading %s from data.manual_dir=%s.", about.title, folder)
    return _assemble(name, published_layout(name, folder), size)


def published_layout(name: str, folder: Path) -> Layout:
    """The layout of a data set of this name, with its published splits.

    Raises:
        DataError: as `find_layout`, and where classes or images are not as many as were published.
    """
    layout, about = find_layout(folder), PUBLISHED[name]
    if "" in layout.listing:
        layout = _split(layout, about)
    _check_counts(layout, about)
    return layout


def _from_tfds(data_config: Any, about: Published) -> Dataset:
    """CIFAR-100 as prepared by TFDS, with the splits of the data set that is made of it."""
    from mamlpp_jax.data.sources import tfds

    assert about.split is not None  # `registry` reads no other set from there.
    whole = tfds.build(data_config, "tfds:cifar100")
    splits = about.split(whole.class_names)
    _check(about, {s: splits.count(s) for s in SPLITS}, len(whole.images), "TFDS's cifar100")
    return Dataset(
        data_config.name, whole.images, whole.class_names, whole.class_sizes, tuple(splits)
    )


def _split(layout: Layout, about: Published) -> Layout:
    """Class folders without splits, in the published ones."""
    classes, folder = layout.listing[""], layout.origins[""]
    if about.split is None or len(classes) != sum(about.classes.values()):
        raise DataError(
            f"{folder} has {len(classes)} classes without splits; {about.title} has {_text(about)}, in folders train, "
            "val and test, or with lists of their images."
        )
    split_of = dict(
        zip(classes, about.split([name.rpartition("/")[2] for name in classes]), strict=True)
    )
    listing = {
        split: {name: images for name, images in classes.items() if split_of[name] == split}
        for split in SPLITS
    }
    return Layout(
        listing,
        lambda split: (pair for pair in layout.read("") if split_of[pair[0]] == split),
        dict.fromkeys(SPLITS, folder),
        layout.files,
    )


def _text(about: Published) -> str:
    counts = "/".join(str(count) for count in about.classes.values())
    per_class = f" of {about.per_class} images" if about.per_class else ""
    return f"{counts} classes{per_class} for train/val/test, {about.images:,} images in all"


def _check_counts(layout: Layout, about: Published) -> None:
    for split, classes in layout.listing.items():
        if len(classes) != about.classes[split]:
            raise DataError(
                f"{about.title}: {layout.origins[split]} has {len(classes)} classes; the {split} split must have "
                f"{about.classes[split]}. For a part of it use configs/image_folder.py."
            )
        for name, images in classes.items():
            if about.per_class and len(images) != about.per_class:
                raise DataError(
                    f"{about.title}: {layout.origins[split]} has {len(images)} images of class {name}; every class "
                    f"must have {about.per_class}."
                )
    counts = {split: len(classes) for split, classes in layout.listing.items()}
    total = sum(len(i) for classes in layout.listing.values() for i in classes.values())
    _check(about, counts, total, str(layout.origins["train"].parent))


def _check(about: Published, counts: Mapping[str, int], images: int, origin: str) -> None:
    if (counts, images) != (about.classes, about.images):
        there = "/".join(str(counts[split]) for split in SPLITS)
        raise DataError(
            f"{origin} has {there} classes and {images:,} images; {about.title} must have {_text(about)}. For a part "
            "of it use configs/image_folder.py."
        )


def _assemble(name: str, layout: Layout, image_size: int) -> Dataset:
    dataset = load_layout(layout, name, image_size)
    named = [
        f"{split}/{image}"
        for class_name, split in zip(dataset.class_names, dataset.class_splits, strict=True)
        for image in layout.listing[split][class_name]
    ]
    _report_duplicates(dataset.images, named)
    for group in np.split(dataset.images, np.cumsum(dataset.class_sizes)[:-1]):
        group[:] = group[np.argsort([image.tobytes() for image in group], kind="stable")]
    return dataset


def _report_duplicates(images: np.ndarray, names: Iterable[str]) -> None:
    """Warns of images with the same pixels; `names` are "<split>/<image>"."""
    first: dict[bytes, str] = {}
    pairs = []
    for image, name in zip(images, names, strict=True):
        other = first.setdefault(hashlib.sha256(image.tobytes()).digest(), name)
        if other is not name:
            pairs.append((other, name))
    if pairs:
        logging.warning(
            "There are %d pairs of identical images, %d of them across splits: %s.",
            len(pairs),
            sum(a.split("/")[0] != b.split("/")[0] for a, b in pairs),
            ", ".join(f"{a} = {b}" for a, b in pairs[:10]) + (", ..." if len(pairs) > 10 else ""),
        )
