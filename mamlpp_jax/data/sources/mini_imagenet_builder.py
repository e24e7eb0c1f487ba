"""A TFDS builder for mini-ImageNet that prepares without TensorFlow.

Import it only where TFDS is wanted: defining the class registers it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mamlpp_jax.data.dataset import SPLITS
from mamlpp_jax.data.readers.images import decode_colour, to_square
from mamlpp_jax.data.sources import mini_imagenet_files
from mamlpp_jax.data.sources.mini_imagenet_files import FORMS, Layout, as_png, find_layout
from mamlpp_jax.errors import DataError

_MOST_BYTES = 1000 << 20  # of a split: TFDS sorts it in memory, and beyond that needs TensorFlow


def size_config(image_size: int) -> tfds.core.BuilderConfig:
    """The configuration named after the side of the pictures, such as "84px"."""
    return tfds.core.BuilderConfig(name=f"{image_size}px", version="1.0.0")


class MamlppMiniImagenet(tfds.core.GeneratorBasedBuilder):
    """mini-ImageNet in Ravi & Larochelle's split, from TFDS's folder for manual downloads.

    Pictures of the configured size are stored as they are, others resized and without loss.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Pictures, labels and names; splits train, val and test."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put into the folder: {FORMS}."

    def __init__(self, *, layout: Layout | None = None, **kwargs: Any) -> None:
        self._layout = layout
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="100 classes of 600 pictures from ImageNet; 64, 16 and 20 classes a split.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(self._size, self._size, 3)),
                    "label": tfds.features.ClassLabel(
                        num_classes=sum(mini_imagenet_files.CLASSES.values())
                    ),
                    "name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
        )

    @property
    def _size(self) -> int:
        return int(self.builder_config.name.removesuffix("px"))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        layout = self._layout or find_layout(Path(dl_manager.manual_dir))
        names = sorted(name for classes in layout.listing.values() for name in classes)
        self.info.features["label"].names = names
        return {split: self._generate_examples(layout, split) for split in SPLITS}

    def _generate_examples(
        self, layout: Layout, split: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        total = 0
        for picture in layout.pictures(split):
            # Here the file can still be named.
            decoded = decode_colour(picture.encoded, picture.origin)
            encoded = picture.encoded
            if decoded.size != (self._size, self._size):
                encoded = as_png(to_square(decoded, self._size))
            total += len(encoded)
            if total > _MOST_BYTES:
                raise DataError(
                    f"data.image_size is {self._size}: the {split} split of mini-ImageNet takes more than "
                    f"{_MOST_BYTES >> 20} MiB, which TFDS cannot prepare without TensorFlow. Use a smaller size, or "
                    "the class folders train, val and test with data.name=image_folder."
                )
            yield (
                picture.name,
                {"image": encoded, "label": picture.class_name, "name": picture.name},
            )
