"""Classifies images with a trained model, from a few images of each class.

    python -m mamlpp_jax.predict --model=runs/quickstart --support=DIR --query=DIR --output=predictions.csv
    python -m mamlpp_jax.predict --model=omniglot --support=DIR --query=a.png b.png --figure=predictions.png
    python -m mamlpp_jax.predict --model=omniglot --support=DIR --save=FOLDER
    python -m mamlpp_jax.predict --model=FOLDER --query=DIR --reject_below=0.6

--model is a model that comes with the package, the folder of a saved model or of an archived run, or a run's --workdir.
--support holds a folder per class with its images, named after it; a saved model that has learned classes needs none.
--query is an image or a folder, whose images at any depth are taken; it can be given several times, and further images
may follow. Images in a folder named after a class are also judged: accuracy and confusions are printed.

Exit codes: 0 done, with a warning for each file that could not be read; 2 bad input, or no image could be read, with
one paragraph on standard error.
"""

from __future__ import annotations

import csv
import io
import pathlib
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from absl import app, flags

from mamlpp_jax.cli.flags import fail, output_file, parse_flags
from mamlpp_jax.cli.log import compile_quickly, quiet_libraries, set_up_compilation
from mamlpp_jax.data.readers.class_folders import scan_classes
from mamlpp_jax.data.readers.images import SUFFIXES, heif_hint
from mamlpp_jax.distributed.mesh import available_devices
from mamlpp_jax.errors import ConfigError, DataError, MamlppError
from mamlpp_jax.inference.classifier import FewShotClassifier
from mamlpp_jax.inference.preprocessing import load_images
from mamlpp_jax.reports import episode_figure
from mamlpp_jax.reports.canvas import FORMATS, save_figure
from mamlpp_jax.reports.confusion import draw_confusion
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
_CONFUSION = flags.DEFINE_string(
    "confusion", None, "PNG, PDF or SVG file to draw true and predicted classes into."
)
_SAVE = flags.DEFINE_string("save", None, "Folder to save the model with its classes to.")
_REJECT_BELOW = flags.DEFINE_float(
    "reject_below", None, "Familiarity, 0 to 1, below which an image is none of the classes."
)
_ENSEMBLE = flags.DEFINE_integer("ensemble", None, "How many best epochs to average.")
_STATISTICS = flags.DEFINE_string("statistics", None, f"One of {', '.join(STATISTICS)}.")
_INNER_STEPS = flags.DEFINE_integer("inner_steps", None, "Inner steps; default: as trained.")
_POLARITY = flags.DEFINE_string(
    "polarity", None, "Models of writing: auto, dark_on_light or light_on_dark."
)

_ALLOW_CODE = flags.DEFINE_bool(
    "allow_code", False, "Import code that the model's config.json names (module:attribute)."
)

_FEW = 200  # query images that take less time than optimising the code that classifies them


NONE = "(none of these)"


def find_images(
    places: Sequence[str],
) -> tuple[dict[pathlib.Path, tuple[str, ...]], list[pathlib.Path]]:
    """The image files that are named, and those in folders that are named, in order of name; and their other files.

    Each image has the names of the folders that lie between it and the folder that was named.
    """
    images: dict[pathlib.Path, tuple[str, ...]] = {}
    others = []
    for place in map(pathlib.Path, places):
        if not place.is_dir():
            images[place] = ()
            continue
        files = [p for p in sorted(place.rglob("*")) if p.is_file() and not p.name.startswith(".")]
        inside = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not inside:
            hint = "".join({heif_hint(path.name) for path in files})
            raise DataError(
                f"The folder {place} has no image ({' '.join(sorted(SUFFIXES))}). {hint}"
            )
        images |= {path: path.relative_to(place).parts[:-1] for path in inside}
        others += [path for path in files if path not in images]
    return images, others


def read_queries(
    clf: FewShotClassifier, places: Sequence[str]
) -> tuple[dict[pathlib.Path, tuple[str, ...]], np.ndarray]:
    """The images of `find_images` that can be read, and their pixels; a warning for each of the others."""
    images, others = find_images(places)
    errors: dict[int, DataError] = {}
    squares = load_images(list(images), clf.configured.image_format, errors)
    problems = [str(errors[n]) for n in sorted(errors)]
    if not len(squares):
        raise DataError(f"None of the {len(errors)} query images can be read. {problems[0]}")
    problems += [f"{path} is no image by its name. {heif_hint(path.name)}" for path in others]
    for problem in problems:
        warnings.warn(f"{problem.rstrip()} It is left out.", stacklevel=2)
    readable = {path: images[path] for n, path in enumerate(images) if n not in errors}
    return readable, squares


class Judged(NamedTuple):
    """Images whose class is known by their folder."""

    true: np.ndarray  # number of the class, int [n]; K for none of the classes
    predicted: np.ndarray  # the same
    names: Sequence[str]  # of the classes, and of none of them, [K + 1]

    @property
    def counts(self) -> np.ndarray:
        """Images by true class (rows) and predicted class, int [K + 1, K + 1]."""
        counts = np.zeros((len(self.names),) * 2, int)
        np.add.at(counts, (self.true, self.predicted), 1)
        return counts

    def report(self) -> str:
        """Accuracy with Wilson's interval, accuracy by class, and what the classes are taken for."""
        from scipy.stats import binomtest

        right, total = int(self.counts.trace()), len(self.true)
        interval = binomtest(right, total).proportion_ci(method="wilson")
        low, high = (f"{100 * end:.1f}" for end in interval)
        rows = [
            {
                "class": name,
                "images": row.sum(),
                "correct": row[number],
                "accuracy (%)": f"{100 * row[number] / row.sum():.1f}",
                "taken for": ", ".join(
                    f"{self.names[other]} ({row[other]})"
                    for other in np.argsort(-row, kind="stable")
                    if row[other] and other != number
                ),
            }
            for number, (name, row) in enumerate(zip(self.names, self.counts, strict=True))
            if row.any()
        ]
        head = f"accuracy {100 * right / total:.1f} % ({right} of {total} images; 95 % interval {low} to {high} %)"
        return f"{head}\n\n{text_table(rows)}"


def fit_folder(
    clf: FewShotClassifier, support: pathlib.Path
) -> tuple[list[pathlib.Path], list[str]]:
    """Learns the classes of a folder that has a folder of images for each; returns images and labels."""
    classes = scan_classes(support)
    paths = [path for inside in classes.values() for path in inside]
    labels = [name for name, inside in classes.items() for _ in inside]
    clf.fit(paths, labels)
    return paths, labels


def judge(
    clf: FewShotClassifier, folders: Sequence[Sequence[str]], numbers: np.ndarray
) -> tuple[np.ndarray, Judged | None]:
    """Which images can be judged, by number, and those; None where no image lies in a folder named after a class.

    The innermost such folder counts. Images in other folders are none of the classes where some are rejected, and are
    not judged otherwise.
    """
    names = list(map(str, clf.classes_))
    number_of = {name: number for number, name in enumerate(names)}
    known = [[number_of[part] for part in parts if part in number_of] for parts in folders]
    if not any(known):
        return np.arange(0), None
    rejects = clf.reject_below is not None
    true = [inner[-1] if inner else len(names) for inner in known]
    judged = [n for n, parts in enumerate(folders) if known[n] or (rejects and parts)]
    if strange := sorted({parts[-1] for n, parts in enumerate(folders) if parts and not known[n]}):
        fate = "count as none of the classes" if rejects else "are not judged"
        warnings.warn(
            f"The images in {', '.join(strange)} {fate}: no class has that name.", stacklevel=2
        )
    predicted = np.where(numbers < 0, len(names), numbers)
    return np.array(judged), Judged(np.array(true)[judged], predicted[judged], [*names, NONE])


def predict(
    clf: FewShotClassifier,
    support: pathlib.Path | None,
    queries: Sequence[str],
    output: pathlib.Path | None = None,
    figure: pathlib.Path | None = None,
    confusion: pathlib.Path | None = None,
) -> str:
    """Learns the classes of a folder, classifies images, and returns the table of the predictions.

    Args:
        clf: a classifier, which must be fitted where there is no support set.
        support: folder with a folder of images per class; None for the classes that `clf` has.
        queries: images or folders of images. Those that cannot be read are left out, with a warning.
        output: CSV file for the predictions.
        figure: file for a figure of the images as the model sees them, each query beside its class.
        confusion: file for a figure of true and predicted classes, where the true ones are known.
    """
    images, squares = read_queries(clf, queries)
    paths, labels = fit_folder(clf, support) if support else ([], [])
    names = [*map(str, clf.classes_), NONE]
    numbers, logs, familiarity = clf.classify(squares)
    probabilities = np.exp(logs)
    shown, judged = judge(clf, list(images.values()), numbers)
    true = dict(zip(shown.tolist(), judged.true, strict=True)) if judged else {}
    header = ["file", "label", "probability", *names[:-1], "familiarity"]
    rows = [
        [
            str(path).encode(errors="replace").decode(),
            names[numbers[n]],
            *(f"{value:.6f}" for value in (probabilities[n].max(), *probabilities[n])),
            f"{familiarity[n]:.4f}",
            *([names[true[n]] if n in true else ""] if judged else []),
        ]
        for n, path in enumerate(images)
    ]
    header += ["true class"] if judged else []
    if output is not None:
        write_csv(output, [header, *rows])
    if figure is not None:
        if judged is None:
            shown, target = np.arange(len(rows)), probabilities.argmax(axis=1)
        else:
            shown, target = (
                shown[judged.true < len(names) - 1],
                judged.true[judged.true < len(names) - 1],
            )
        episode = Episode(
            Batch(clf.preprocess(paths) / 255.0, np.array(list(map(names.index, labels)))),
            Batch(squares[shown] / 255.0, target),
        )
        drawn = episode_figure.draw(
            episode, probabilities[shown], names[:-1], judged=judged is not None
        )
        save_figure(drawn, figure)
    if confusion is not None and judged is not None:
        save_figure(draw_confusion(judged.counts, judged.names), confusion)
    table = text_table([_short(header, row, len(names)) for row in rows])
    return f"{table}\n\n{judged.report()}" if judged else table


def _short(header: Sequence[str], row: Sequence[str], names: int) -> dict[str, str]:
    """A row without the probabilities of the classes."""
    columns = [0, 1, 2, *range(names + 2, len(row))]
    return {header[n]: row[n][:5] if n == 2 else row[n] for n in columns}


def write_csv(path: pathlib.Path, rows: Sequence[Sequence[str]]) -> None:
    """Writes a header and a row per image: file, label, its probability, that of each class, familiarity."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _run(queries: Sequence[str]) -> None:
    if not _MODEL.value:
        raise ConfigError("--model is missing; see --help.")
    if not (queries or _SAVE.value or _SUPPORT.value):
        raise ConfigError("--support is missing, and so is --query; see --help.")
    if not (queries or _SAVE.value):
        raise ConfigError("--query is missing; it names images, or folders of images.")
    output, figure = output_file(_OUTPUT), output_file(_FIGURE, FORMATS)
    confusion = output_file(_CONFUSION, FORMATS)
    settings = {
        flag.name: flag.value
        for flag in (_STATISTICS, _INNER_STEPS, _POLARITY, _REJECT_BELOW)
        if flag.value is not None
    }
    support = pathlib.Path(_SUPPORT.value) if _SUPPORT.value else None
    if figure and not support:
        raise ConfigError("--support is missing; --figure shows its images.")
    if queries and len(find_images(queries)[0]) <= _FEW:
        compile_quickly()
    available_devices()
    clf = FewShotClassifier.from_pretrained(
        _MODEL.value, ensemble=_ENSEMBLE.value, allow_code=_ALLOW_CODE.value, **settings
    )
    if not (support or hasattr(clf, "classes_")):
        raise ConfigError(
            f"--support is missing; it holds a folder of images per class, for {_MODEL.value} has no classes."
        )
    if queries:
        print(predict(clf, support, queries, output, figure, confusion))
    elif support:
        fit_folder(clf, support)
    if _SAVE.value:
        clf.save_pretrained(_SAVE.value)


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
