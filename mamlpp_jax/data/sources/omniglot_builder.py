"""A TFDS builder for Omniglot that prepares without TensorFlow.

TFDS's own builder needs TensorFlow to unpack the archives. This one reads them directly, and writes
the same encoded pictures under the same label names. Import it only where TFDS is wanted: defining
the class registers it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mamlpp_jax.data.sources import omniglot


class MamlppOmniglot(tfds.core.GeneratorBasedBuilder):
    """Omniglot from the two official archives in TFDS's folder for manual downloads."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Pictures and labels, splits train and test."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put images_background.zip and images_evaluation.zip from "
        "https://github.com/brendenlake/omniglot/tree/master/python into the folder."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="1623 handwritten characters from 50 alphabets, 20 drawings of each.",
            homepage="https://github.com/brendenlake/omniglot",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(105, 105, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=omniglot.NUM_CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        folder = Path(dl_manager.manual_dir)
        classes = [
            omniglot.tfds_name(name)
            for archive in omniglot.ARCHIVES
            for name in omniglot.list_drawings(folder / archive.file, archive.num_classes)
        ]
        self.info.features["label"].names = classes
        return {
            archive.split: self._generate_examples(folder / archive.file, archive.num_classes)
            for archive in omniglot.ARCHIVES
        }

    def _generate_examples(
        self, path: Path, num_classes: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for class_name, drawing in omniglot.archive_drawings(path, num_classes):
            # Here its archive and member can still be named.
            omniglot.decode(class_name, drawing)
            label = omniglot.tfds_name(class_name)
            yield drawing.origin, {"image": drawing.encoded, "label": label}
