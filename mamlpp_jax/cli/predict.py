"""Classifies images with a trained model, from a few images of each class.

    python -m mamlpp_jax.predict --model=runs/quickstart --support=DIR --query=DIR --output=predictions.csv
    python -m mamlpp_jax.predict --model=omniglot --support=DIR --query=a.png b.png --figure=predictions.png

--model is a model that comes with the package, the folder of a saved model or of an archived run, or a run's --workdir.
--support holds a folder per class with its images, named after it. --query is an image or a folder, whose images at
any depth are taken; it can be given several times, and further images may follow.

Exit codes: 0 done; 2 bad input, with one paragraph on standard error.
"""

from __future__ import annotations

import csv
import io
import pathlib
import sys
import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
from absl import app, flags

from mamlpp_jax.cli.flags import fail, output_file, parse_flags
from mamlpp_jax.cli.log import compile_quickly, quiet_libraries, set_up_compilation
from mamlpp_jax.data.readers.class_folders import scan_classes
from mamlpp_jax.data.readers.images import SUFFIXES
from mamlpp_jax.distributed.mesh import available_devices
from mamlpp_jax.errors import ConfigError, DataError, MamlppError
from mamlpp_jax.inference.classifier import FewShotClassifier
from mamlpp_jax.reports import episode_figure
from mamlpp_jax.reports.canvas import FORMATS, save_figure
from mamlpp_jax.reports.tables import text_table
from mamlpp_jax.statistics import STATISTICS
from mamlpp_jax.types import Batch, Episode
from mamlpp_jax.utils.files import write_atomically

_MODEL = flags.DEFINE_string("model", None, "A shipped model's name, or a folder.")
_SUPPORT = flags.DEFINE_string("support", None, "Folder with a folder of images per class.")
_QUERY = flags.DEFINE_multi_string("query", [], "Image or folder of images to classify.")
_OUTPUT = flags.DEFINE_string("output", None, "CSV file to write the predictions to.")
_FIGURE = flags.DEFINE_string(
    "figure", None, "PNG, PDF or SVG file to draw images and predictions into."
)
_ENSEMBLE = flags.DEFINE_integer("ensemble", None, "How many best epochs to average.")
_STATISTICS = flags.DEFINE_string("statistics", None, f"One of {', '.join(STATISTICS)}.")
_INNER_STEPS = flags.DEFINE_integer("inner_steps", None, "Inner steps; default: as trained.")
_POLARITY = flags.DEFINE_string(
    "polarity", None, "Models of writing: auto, dark_on_light or light_on_dark."
)

_FEW = 200  # query images that take less time than optimising the code that classifies them


def find_images(places: Sequence[str]) -> list[pathlib.Path]:
    """The image files that are named, and those in folders that are named, in order of name."""
    images: list[pathlib.Path] = []
    for place in map(pathlib.Path, places):
        inside = [place]
        if place.is_dir():
            files = (path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)
            inside = sorted(path for path in files if not path.name.startswith("."))
            if not inside:
                raise DataError(f"The folder {place} has no image ({' '.join(sorted(SUFFIXES))}).")
        images += inside
    return images


def write_csv(
    path: pathlib.Path, files: Sequence[str], classes: Sequence[str], probabilities: np.ndarray
) -> None:
    """Writes a row per image: file, label, its probability, and the probability of every class."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "label", "probability", *classes])
    for file, row in zip(files, probabilities, strict=True):
        cells = [f"{value:.6f}" for value in row]
        best = int(row.argmax())
        rows.writerow([file, classes[best], cells[best], *cells])
    write_atomically(path, text.getvalue().encode())


def predict(
    clf: FewShotClassifier,
    support: pathlib.Path,
    queries: Sequence[str],
    output: pathlib.Path | None = None,
    figure: pathlib.Path | None = None,
) -> str:
    """Learns the classes of a folder, classifies images, and returns the table of the predictions.

    `support` has a folder of images per class, `queries` are images or folders of images. The predictions go into the
    CSV file `output`; `figure` shows the images as the model sees them, each query beside the class predicted for it.
    """
    folders, images = scan_classes(support), find_images(queries)
    paths = [path for inside in folders.values() for path in inside]
    labels = [name for name, inside in folders.items() for _ in inside]
    probabilities = clf.fit(paths, labels).predict_proba(images)
    names = list(folders)
    files = [str(path).encode(errors="replace").decode() for path in images]
    if output is not None:
        write_csv(output, files, names, probabilities)
    if figure is not None:
        numbers = np.array([names.index(label) for label in labels])
        episode = Episode(
            Batch(clf.preprocess(paths) / 255.0, numbers),
            Batch(clf.preprocess(images) / 255.0, probabilities.argmax(axis=1)),
        )
        save_figure(episode_figure.draw(episode, probabilities, names, judged=False), figure)
    return text_table(
        [
            {"file": file, "label": names[row.argmax()], "probability": f"{row.max():.3f}"}
            for file, row in zip(files, probabilities, strict=True)
        ]
    )


def _run(queries: Sequence[str]) -> None:
    for flag in (_MODEL, _SUPPORT):
        if not flag.value:
            raise ConfigError(f"--{flag.name} is missing; see --help.")
    if not queries:
        raise ConfigError("--query is missing; it names images, or folders of images.")
    output, figure = output_file(_OUTPUT), output_file(_FIGURE, FORMATS)
    if len(find_images(queries)) <= _FEW:
        compile_quickly()
    available_devices()
    clf = FewShotClassifier.from_pretrained(
        _MODEL.value,
        ensemble=_ENSEMBLE.value,
        statistics=_STATISTICS.value,
        inner_steps=_INNER_STEPS.value,
        polarity=_POLARITY.value,
    )
    print(predict(clf, pathlib.Path(_SUPPORT.value), queries, output, figure))


def _main(argv: list[str]) -> None:
    quiet_libraries()
    set_up_compilation()
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        _run([*_QUERY.value, *argv[1:]])
    except MamlppError as error:
        fail(str(error))


def main() -> None:
    """Runs the command on its flags."""
    app.run(_main, flags_parser=partial(parse_flags, module=__name__, rest=True))
