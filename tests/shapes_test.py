"""Shapes and types of arrays in the annotations of public functions are true. They cost nothing in a run, which never
evaluates them."""

import types
import typing

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from beartype import beartype

import mamlpp_jax as maml
from tests.helpers.small_models import drawings, small_model

METHODS = ["predict", "predict_proba", "predict_log_proba", "embed", "familiarity", "preprocess"]


def checked(function):
    """The function, whose arguments and result are compared with its annotations."""
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__annotations__ = typing.get_type_hints(function, localns=vars(jaxtyping))
    return jaxtyping.jaxtyped(typechecker=beartype)(copy)


def test_normalize():
    normalize = checked(maml.normalize)
    normalize(jnp.zeros((2, 8, 8, 3), jnp.uint8), (0.5,), (0.5,))
    with pytest.raises(jaxtyping.TypeCheckError):
        normalize(jnp.zeros((2, 8, 8, 3)), (0.5,), (0.5,))


def test_the_classifier():
    clf = maml.FewShotClassifier(small_model())
    images = drawings(4)
    clf.fit(images[:3], ["a", "b", "c"])
    for name in METHODS:
        checked(getattr(maml.FewShotClassifier, name))(clf, images)
    classify = checked(maml.FewShotClassifier.classify)
    classify(clf, clf.preprocess(images))
    with pytest.raises(jaxtyping.TypeCheckError):
        classify(clf, images)  # without channels


def test_a_false_annotation_is_found():
    def flatten(images: "UInt8[np.ndarray, 'n H W']") -> "UInt8[np.ndarray, 'n H']":  # noqa: F821
        return images

    with pytest.raises(jaxtyping.TypeCheckError):
        checked(flatten)(drawings(2))
