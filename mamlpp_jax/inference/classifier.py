"""A few-shot image classifier with the habits of scikit-learn."""

from __future__ import annotations

import os
import pathlib
import warnings
from collections.abc import Hashable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np

from mamlpp_jax import config as config_lib
from mamlpp_jax.config.parts import OUTER_DIRECTIONS
from mamlpp_jax.errors import ConfigError, DataError, ModelError, NotFittedError
from mamlpp_jax.inference.adaptation import Adapted, adapt_members, class_probabilities
from mamlpp_jax.inference.model import FewShotModel
from mamlpp_jax.inference.preprocessing import POLARITIES, load_images
from mamlpp_jax.inference.pretrained import find_model
from mamlpp_jax.inference.saved_model import save_model
from mamlpp_jax.inference.stablehlo import write_stablehlo
from mamlpp_jax.statistics import check_usable, find_statistics

# Queries are padded to one of these numbers, so that other numbers compile nothing new.
_QUERY_SIZES = (8, 64)


class FewShotClassifier:
    """Learns classes from a few images of each, by the inner loop of a trained model.

        clf = FewShotClassifier.from_pretrained("omniglot")
        clf.fit(images, labels)
        clf.predict(more_images)

    An image is the path of a file, a Pillow image or an array, grey or colour, of any size; see
    `inference.preprocessing.load_images`. Each method takes one image or several and returns an entry per image.

    Attributes:
        model: the trained model with the settings in use.
    """

    def __init__(
        self,
        model: FewShotModel,
        *,
        statistics: str | None = None,
        inner_steps: int | None = None,
        polarity: str | None = None,
    ) -> None:
        """Makes a classifier that has not learned any classes.

        Args:
            model: from `inference.pretrained.find_model` or `inference.model.from_runs`.
            statistics: name of a mode of `mamlpp_jax.statistics`, which explains each; `batch`, where predictions
                depend on each other, warns. None for the model's own: `support`, or the mode of its training where
                this learned something, unless it was saved with another.
            inner_steps: of `fit`; more than trained repeat the last one's rates and normalisation. None for
                the model's own.
            polarity: for models of writing: `dark_on_light`, `light_on_dark`, or `auto`, decided for each image
                by its border. None for the model's own.

        Raises:
            ConfigError: a setting is not allowed.
            ModelError: the model is of inputs that are no images.
        """
        if OUTER_DIRECTIONS[model.config.train.outer_gradient].all_classes:
            raise ModelError(
                "the model is a supervised stage, which has not learned to adapt; train from it by "
                "--config.train.start_from."
            )
        if not model.takes_images:
            raise ModelError(
                f"the model was trained on episodes of {model.config.data.name}, which need not be images; use "
                "mamlpp_jax.adapt_and_predict(model, support, query_inputs)."
            )
        self.model = _with_settings(model, statistics, inner_steps, polarity)
        if not find_statistics(self.model.statistics).alone:
            warnings.warn(
                "With `batch` statistics a prediction depends on the images that are predicted together with it; "
                "`support` predicts each alone.",
                stacklevel=2,
            )
        self._weights = jax.device_put((self.model.meta, self.model.batch_stats))
        self._fitted: tuple[np.ndarray, Adapted] | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        ensemble: int | None = None,
        allow_code: bool = False,
        **settings: Any,
    ) -> FewShotClassifier:
        """Loads a trained model; nothing is downloaded.

        Args:
            name: of a model that comes with the package, which wins over a folder of that name (`./omniglot` is the
                folder); or the folder of a saved model, such as a run that `experiments.paper.keep` archived; or the
                working directory of a run.
            ensemble: how many of the best members or epochs are averaged, fewer where there are fewer. None for
                all members of a saved model and for the best epoch of a run.
            allow_code: whether code that the model's configuration names ("module:attribute") may be imported.
            **settings: `statistics`, `inner_steps` and `polarity`, as in `FewShotClassifier`.

        Raises:
            ModelError: there is none of that name (lists those there are), or its files are damaged.
            WorkdirError: a run or file cannot be read.
            ConfigError: a setting is not allowed.
        """
        return cls(find_model(name, ensemble, allow_code=allow_code), **settings)

    def fit(self, images: Any, labels: Iterable[Hashable]) -> FewShotClassifier:
        """Learns classes, instead of those learned before. Compiles once per number of images and of classes.

        Args:
            images: one or more of each class.
            labels: one per image, of any hashable kind; equal ones are one class.

        Returns:
            This classifier.

        Raises:
            DataError: an image cannot be read, or the labels do not fit the images or are of one class only.
        """
        labels = list(labels)
        classes = _numbered(labels)
        if len(classes) < 2:
            raise DataError(
                f"The labels are of {len(classes)} class(es); two or more are needed to tell apart."
            )
        squares = self.preprocess(images)
        _check_lengths(squares, labels)
        if len(classes) > self.model.way and not self.model.config.model.shared_head:
            warnings.warn(
                f"{len(classes)} classes are more than the {self.model.way} the model was trained with; the others "
                "start from the mean of those outputs, which can cost much accuracy.",
                stacklevel=2,
            )
        targets = np.array([classes[label] for label in labels], np.int32)
        way = len(classes)
        learner, image_format = self.model.learner(way), self.model.image_format
        adapted = adapt_members(learner, image_format, way, *self._weights, squares, targets)
        self._fitted = _object_array(list(classes)), adapted
        return self

    @property
    def classes_(self) -> np.ndarray:
        """The labels of the classes in order of first appearance, object [K].

        Raises:
            NotFittedError: before `fit`.
        """
        return self._state()[0]

    def predict(self, images: Any) -> np.ndarray:
        """The most probable class of each image, object [n]; see `predict_proba`."""
        best = self.predict_proba(images).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, images: Any) -> np.ndarray:
        """Probabilities of the classes, float32 [n, K] in the order of `classes_`.

        Raises:
            NotFittedError: before `fit`.
            DataError: an image cannot be read; it is named.
        """
        classes, adapted = self._state()
        fixed = self.model.learner(len(classes)), self.model.image_format
        squares = self.preprocess(images)
        if adapted.bn_stats is None:  # padding would change the statistics of the others
            return np.asarray(class_probabilities(*fixed, adapted, squares))
        most = _QUERY_SIZES[-1]
        blocks = [squares[start : start + most] for start in range(0, len(squares), most)]
        parts = [
            np.asarray(class_probabilities(*fixed, adapted, _padded(block))) for block in blocks
        ]
        return np.concatenate(parts)[: len(squares)]

    def score(self, images: Any, labels: Iterable[Hashable]) -> float:
        """The fraction of images whose predicted class is their label.

        Raises:
            NotFittedError: before `fit`.
            DataError: an image cannot be read, or the labels do not fit the images.
        """
        classes, labels = _numbered(self.classes_), list(labels)
        _numbered(labels)
        predicted = self.predict_proba(images).argmax(axis=1)
        _check_lengths(predicted, labels)
        return float(np.mean(predicted == [classes.get(label, -1) for label in labels]))

    def preprocess(self, images: Any) -> np.ndarray:
        """Images as the model takes them, uint8 [n, H, W, C]; see `inference.preprocessing.load_images`."""
        return load_images(images, self.model.image_format)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes the trained model and its settings, not the classes of `fit`, for `from_pretrained`.

        Writes the files that `inference.saved_model` lists, each as a whole.

        Raises:
            ModelError: the folder is something else's, such as a run's working directory.
            WorkdirError: a file cannot be written.
        """
        save_model(pathlib.Path(folder), self.model)

    def export(self, file: str | os.PathLike[str]) -> None:
        """Writes the classifier of these classes as portable StableHLO, for programs with JAX alone.

        `jax.export.deserialize(content).call(images)` takes uint8 [n, H, W, C] for any n, as `preprocess` makes them,
        and returns probabilities, float32 [n, K]. It is exported for `inference.stablehlo.PLATFORMS`: CPU, CUDA
        and TPU (neither of the latter two tested).

        Raises:
            NotFittedError: before `fit`.
            ModelError: `flatbuffers` is not installed.
            WorkdirError: the file cannot be written.
        """
        classes, adapted = self._state()
        learner, image_format = self.model.learner(len(classes), "xla"), self.model.image_format
        classify = partial(class_probabilities, learner, image_format, adapted)
        write_stablehlo(pathlib.Path(file), classify, [("n", image_format.shape)])

    def _state(self) -> tuple[np.ndarray, Adapted]:
        if self._fitted is None:
            raise NotFittedError(
                "This FewShotClassifier has not learned any classes; call fit(images, labels) first."
            )
        return self._fitted


def _with_settings(
    model: FewShotModel, statistics: str | None, inner_steps: int | None, polarity: str | None
) -> FewShotModel:
    if statistics is not None:
        trained, averaged = model.config.norm.train_statistics, model.config.train.average_decay
        check_usable(statistics, trained, averaged=bool(averaged))
    if inner_steps is not None:
        config_lib.check_value("train.inner_steps", inner_steps, called="inner_steps")
    image_format = model.image_format
    if polarity is not None:
        if image_format.polarity is None:
            raise ConfigError(f"polarity is {polarity!r}, but this is no model of writing.")
        if polarity not in POLARITIES:
            raise ConfigError(f"polarity is {polarity!r}; choose one of {', '.join(POLARITIES)}.")
        image_format = image_format._replace(polarity=polarity)
    return model.changed(
        statistics=statistics or model.statistics,
        inner_steps=inner_steps or model.inner_steps,
        image_format=image_format,
    )


def _numbered(labels: Iterable[Hashable]) -> dict[Hashable, int]:
    """The distinct labels, numbered in order of first appearance."""
    try:
        return {label: number for number, label in enumerate(dict.fromkeys(labels))}
    except TypeError as error:
        raise DataError(f"A label is not hashable ({error}); use strings or numbers.") from error


def _check_lengths(images: np.ndarray, labels: list[Any]) -> None:
    if len(images) != len(labels):
        raise DataError(f"There are {len(images)} images and {len(labels)} labels; each needs one.")


def _object_array(items: list[Any]) -> np.ndarray:
    """One element per item, also where items are sequences."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _padded(images: np.ndarray) -> np.ndarray:
    """As many images as the next of `_QUERY_SIZES`, black ones behind."""
    size = next(size for size in _QUERY_SIZES if size >= len(images))
    return np.concatenate([images, np.zeros((size - len(images), *images.shape[1:]), images.dtype)])
