"""A few-shot image classifier with the habits of scikit-learn."""

from __future__ import annotations

import inspect
import os
import pathlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from mamlpp_jax import config as config_lib
from mamlpp_jax.config.parts import INNER_LOSSES, OUTER_DIRECTIONS
from mamlpp_jax.errors import ConfigError, DataError, ModelError, NotFittedError
from mamlpp_jax.inference.fitted import Fitted, Predictions, learn
from mamlpp_jax.inference.labels import find_classes, number_labels, read_labels
from mamlpp_jax.inference.model import FewShotModel
from mamlpp_jax.inference.onnx_export import write_onnx
from mamlpp_jax.inference.preprocessing import POLARITIES, load_images
from mamlpp_jax.inference.pretrained import find_folder, find_model
from mamlpp_jax.inference.saved_model import load_fitted, save_model
from mamlpp_jax.inference.stablehlo import write_stablehlo
from mamlpp_jax.statistics import check_usable, find_statistics

if TYPE_CHECKING:
    from jaxtyping import Float32, Shaped, UInt8


class FewShotClassifier:
    """Learns classes from a few images of each, by the inner loop of a trained model; an estimator of scikit-learn.

    An image is the path of a file, a Pillow image, an array or what else `inference.preprocessing.load_images` lists.
    Each method takes one image or several and returns an entry per image.

    Attributes:
        model: as given; `configured` has the settings in use.

    Example:
        >>> clf = maml.FewShotClassifier.from_pretrained("omniglot")
        >>> clf = clf.fit(images[:3], ["a", "b", "c"])  # one example of each class
        >>> clf.predict(images[[2, 0]]).tolist()
        ['c', 'a']
    """

    def __init__(
        self,
        model: FewShotModel,
        *,
        statistics: str | None = None,
        inner_steps: int | None = None,
        polarity: str | None = None,
        reject_below: float | None = None,
    ) -> None:
        """Makes a classifier that has not learned any classes; `fit` checks the settings.

        Args:
            model: from `inference.pretrained.find_model` or `inference.model.from_runs`.
            statistics: name of a mode of `mamlpp_jax.statistics`, which explains each; `batch`, where predictions
                depend on each other, warns. None for the model's own: unless it was saved with another, the mode of its
                training, or `support` where that was `batch`.
            inner_steps: of `fit`; more than trained repeat the last one's rates and normalisation. None for
                the model's own.
            polarity: for models of writing: `dark_on_light`, `light_on_dark`, or `auto`, decided for each image
                by its border. None for the model's own.
            reject_below: `predict` answers None, "none of these", for images whose `familiarity` (0..1) is less.
                None to reject nothing.
        """
        self.model = model
        self.statistics = statistics
        self.inner_steps = inner_steps
        self.polarity = polarity
        self.reject_below = reject_below
        self._fitted: Fitted | None = None
        self._stack = False  # whether `fit` was given grey images as an array [n, H, W]

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        ensemble: int | None = None,
        allow_code: bool = False,
        **settings: Any,
    ) -> FewShotClassifier:
        """Loads a trained model, with the classes that it was saved with; nothing is downloaded.

        Args:
            name: of a model that comes with the package, which wins over a folder of that name (`./omniglot` is the
                folder); or the folder of a saved model, such as a run that `experiments.paper.keep` archived; or the
                working directory of a run.
            ensemble: how many of the best members or epochs are averaged, fewer where there are fewer. None for
                all members of a saved model and for the best epoch of a run.
            allow_code: whether code that the model's configuration names ("module:attribute") may be imported.
            **settings: as in `FewShotClassifier`. Saved classes were learned with the saved settings; with others they
                are left out, with a warning.

        Raises:
            ModelError: there is none of that name (lists those there are), or its files are damaged.
            WorkdirError: a run or file cannot be read.
            ConfigError: a setting is not allowed.
        """
        clf = cls(find_model(name, ensemble, allow_code=allow_code), **settings)
        clf._fitted, reject_below = load_fitted(find_folder(name), clf.configured)
        clf.reject_below = settings.get("reject_below", reject_below)
        return clf

    @property
    def configured(self) -> FewShotModel:
        """The model with the settings of this classifier.

        Raises:
            ConfigError: a setting is not allowed.
            ModelError: the model has not learned to adapt, or is of inputs that are no images.
        """
        if OUTER_DIRECTIONS[self.model.config.train.outer_gradient].all_classes:
            raise ModelError(
                "the model is a supervised stage, which has not learned to adapt; train from it by "
                "--config.train.start_from."
            )
        if not self.model.takes_images:
            raise ModelError(
                f"the model was trained on episodes of {self.model.config.data.name}, which need not be images; use "
                "mamlpp_jax.adapt_and_predict(model, support, query_inputs)."
            )
        model, image_format, rejects = self.model, self.model.image_format, self.reject_below
        if self.statistics is not None:
            trained, averaged = model.config.norm.train_statistics, model.config.train.average_decay
            check_usable(self.statistics, trained, averaged=bool(averaged))
        if self.inner_steps is not None:
            config_lib.check_value("train.inner_steps", self.inner_steps, called="inner_steps")
        if self.polarity is not None:
            if image_format.polarity is None:
                raise ConfigError(
                    f"polarity is {self.polarity!r}, but this is no model of writing."
                )
            if self.polarity not in POLARITIES:
                raise ConfigError(
                    f"polarity is {self.polarity!r}; choose one of {', '.join(POLARITIES)}."
                )
            image_format = image_format._replace(polarity=self.polarity)
        if rejects is not None and not (isinstance(rejects, (int, float)) and 0 <= rejects <= 1):
            raise ConfigError(f"reject_below is {rejects!r}; it must be a number in 0..1, or None.")
        return model.changed(
            statistics=self.statistics or model.statistics,
            inner_steps=self.inner_steps or model.inner_steps,
            image_format=image_format,
        )

    def fit(self, images: Any, labels: Any) -> FewShotClassifier:
        """Learns classes, instead of those learned before. Compiles once per number of images and of classes.

        Args:
            images: one or more of each class.
            labels: one per image, of any hashable kind and any array library; equal ones are one class.

        Returns:
            This classifier.

        Raises:
            ConfigError: a setting is not allowed.
            DataError: an image cannot be read, or the labels do not fit the images, are missing (NaN) or are of one
                class only.
        """
        model, labels = self.configured, read_labels(labels)
        way = len(find_classes(labels)[0])
        if way < 2:
            raise DataError(
                f"The labels are of {way} class(es); two or more are needed to tell apart."
            )
        if self.reject_below is not None and any(label is None for label in labels):
            raise DataError("A label is None, which stands for images below reject_below; name it.")
        if not find_statistics(model.statistics).alone:
            warnings.warn(
                "With `batch` statistics a prediction depends on the images that are predicted together with it; "
                "`support` predicts each alone.",
                stacklevel=2,
            )
        squares = self._paired(images, labels)
        of_outputs = INNER_LOSSES[model.config.inner.loss].of_outputs  # refused below
        if way > model.way and not (config_lib.serves_any_way(model.config) or of_outputs):
            warnings.warn(
                f"{way} classes are more than the {model.way} the model was trained with; the others "
                "start from the mean of those outputs, which can cost much accuracy.",
                stacklevel=2,
            )
        self._fitted = learn(model, squares, labels)
        self._stack = getattr(images, "ndim", 0) == 3
        return self

    @property
    def classes_(self) -> Shaped[np.ndarray, " K"]:
        """The labels of the classes, [K] of the labels' dtype, sorted or else by first appearance.

        Raises:
            NotFittedError: before `fit`.
        """
        return self._state().classes

    def predict(self, images: Any) -> Shaped[np.ndarray, " n"]:
        """The most probable class of each image, [n] of the labels' dtype; see `predict_proba`.

        With `reject_below` the dtype is object, and None stands for "none of these".
        """
        numbers = self.classify(self.preprocess(images)).numbers
        predicted = self.classes_[numbers]
        if self.reject_below is not None:
            predicted = predicted.astype(object)
            predicted[numbers < 0] = None
        return predicted

    def classify(self, squares: UInt8[np.ndarray, "n H W C"]) -> Predictions:
        """All there is to say of preprocessed images, with classes by their place in `classes_`."""
        return self._state().predict(squares, self.reject_below)

    def predict_proba(self, images: Any) -> Float32[np.ndarray, "n K"]:
        """Probabilities of the classes, float32 [n, K] in the order of `classes_`.

        Raises:
            NotFittedError: before `fit`.
            DataError: an image cannot be read; it is named.
        """
        return np.exp(self.predict_log_proba(images))

    def predict_log_proba(self, images: Any) -> Float32[np.ndarray, "n K"]:
        """Logarithms of `predict_proba`."""
        return self._state().outputs(self.preprocess(images)).log_probabilities

    def embed(self, images: Any) -> Float32[np.ndarray, "n features"]:
        """Features under the adapted weights, those of several members side by side: float32 [n, E * D]."""
        return self._state().outputs(self.preprocess(images)).embeddings

    transform = embed

    def fit_transform(self, images: Any, labels: Any) -> Float32[np.ndarray, "n features"]:
        """The embeddings of images whose classes were learned first; see `fit` and `embed`."""
        return self.fit(images, labels).embed(images)

    def familiarity(self, images: Any) -> Float32[np.ndarray, " n"]:
        """How near images are to the support set, float32 [n] in 0..1; low for outliers.

        1 for a support image, 1/2 for an image as far from all of them as the classes are from one another, measured
        in features under the adapted weights.
        """
        return self.classify(self.preprocess(images)).familiarity

    def score(self, images: Any, labels: Any) -> float:
        """The fraction of images whose predicted class is their label.

        With `reject_below`, rejecting an image is right where its label is no class.

        Raises:
            NotFittedError: before `fit`.
            DataError: an image cannot be read, or the labels do not fit the images or can be none of the classes.
        """
        numbers = number_labels(read_labels(labels), self.classes_)
        squares = self._paired(images, numbers)
        return float(np.mean(self.classify(squares).numbers == numbers))

    def preprocess(self, images: Any) -> UInt8[np.ndarray, "n H W C"]:
        """Images as the model takes them, uint8 [n, H, W, C]; see `inference.preprocessing.load_images`."""
        return self._load(images, self._stack)

    def _load(self, images: Any, stack: bool) -> np.ndarray:
        model = self._fitted.model if self._fitted else self.configured
        return load_images(images, model.image_format, stack=stack)

    def _paired(self, images: Any, labels: np.ndarray) -> np.ndarray:
        squares = self._load(images, len(labels) == 3)
        if len(squares) != len(labels):
            raise DataError(
                f"There are {len(squares)} images and {len(labels)} labels; each needs one."
            )
        return squares

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor by name."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> FewShotClassifier:
        """Changes arguments of the constructor, for the next `fit`; `reject_below` for the next `predict`.

        Raises:
            ConfigError: there is no such argument.
        """
        for name, value in params.items():
            if name not in (names := self.get_params()):
                raise ConfigError(f"{name} is no parameter; choose from {', '.join(names)}.")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        model, learned = self.model, len(self._fitted.classes) if self._fitted else "no"
        return (
            f"{type(self).__name__}({model}, {self.statistics or model.statistics} statistics, "
            f"{self.inner_steps or model.inner_steps} inner steps, {learned} classes learned)"
        )

    def __sklearn_is_fitted__(self) -> bool:
        return self._fitted is not None

    def __sklearn_tags__(self) -> Any:
        from sklearn import utils  # which alone asks for them

        return utils.Tags(
            estimator_type="classifier",
            target_tags=utils.TargetTags(required=True),
            transformer_tags=utils.TransformerTags(preserves_dtype=[]),
            classifier_tags=utils.ClassifierTags(),
            input_tags=utils.InputTags(two_d_array=False, three_d_array=True, string=True),
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes the trained model, its settings and, once fitted, what it has learned, for `from_pretrained`.

        Writes the files that `inference.saved_model` lists, each as a whole. Classes whose labels are other than
        strings, numbers, booleans, None and tuples of these are left out, with a warning.

        Raises:
            ModelError: the folder is something else's, such as a run's working directory.
            WorkdirError: a file cannot be written.
        """
        model = self._fitted.model if self._fitted else self.configured
        save_model(pathlib.Path(folder), model, self._fitted, self.reject_below)

    def export(self, file: str | os.PathLike[str]) -> None:
        """Writes the classifier of these classes as portable StableHLO, for programs with JAX alone, or as ONNX.

        `jax.export.deserialize(content).call(images)` takes uint8 [n, H, W, C] for any n, as `preprocess` makes them,
        and returns probabilities, float32 [n, K]; see `inference.stablehlo` for how long and where it can be read.
        A file that ends in `.onnx` is the same function for ONNX runtimes, without JAX.

        Raises:
            NotFittedError: before `fit`.
            ModelError: `flatbuffers`, or for ONNX `jax2onnx`, is not installed.
            WorkdirError: the file cannot be written.
        """
        fitted, path = self._state(), pathlib.Path(file)
        function, shape = fitted.exportable(), fitted.model.image_format.shape
        if path.suffix == ".onnx":
            write_onnx(path, function, shape)
        else:
            write_stablehlo(path, function, [("n", shape)])

    def _state(self) -> Fitted:
        if self._fitted is None:
            raise NotFittedError(
                "This FewShotClassifier has not learned any classes; call fit(images, labels) first."
            )
        return self._fitted
