"""Shapes and types of arrays in the annotations of public functions are true. They cost nothing in a run, which never
evaluates them."""

import types
import typing

import jax
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


@pytest.mark.parametrize("function", [maml.accuracy, maml.CrossEntropy.__call__])
def test_losses(function):
    given = [maml.cross_entropy] if function is not maml.accuracy else []
    logits, labels = jnp.zeros((4, 3)), jnp.zeros(4, int)
    checked(function)(*given, logits, labels)
    for wrong in ((logits[0], labels), (logits, labels[:3]), (logits, logits[:, 0])):
        with pytest.raises(jaxtyping.TypeCheckError):
            checked(function)(*given, *wrong)


IMAGES = jnp.zeros((2, 16, 16, 3))
LAYERS = {
    "Conv4": (maml.Conv4(ways=3, filters=4), IMAGES),
    "FilmConv4": (maml.FilmConv4(ways=3, filters=4), IMAGES),
    "ResNet12": (maml.ResNet12(ways=3, filters=4), IMAGES),
    "Conv": (maml.Conv(filters=4), IMAGES),
    "PerStepBatchNorm": (maml.PerStepBatchNorm(max_pool=True), IMAGES),
    "PerStepBatchNorm of vectors": (maml.PerStepBatchNorm(), jnp.zeros((4, 6))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_backbones_and_layers(name):
    """Their results are made first: Flax wraps the method itself."""
    module, inputs = LAYERS[name]
    result = jax.jit(module.init_with_output)(jax.random.key(0), inputs)[0]
    hints = typing.get_type_hints(type(module).__call__, localns=vars(jaxtyping))

    def call(x):
        return result

    call.__annotations__ = {"x": next(iter(hints.values())), "return": hints["return"]}
    check = jaxtyping.jaxtyped(typechecker=beartype)(call)
    check(inputs)
    with pytest.raises(jaxtyping.TypeCheckError):
        check(inputs[0, 0])


def test_a_false_annotation_is_found():
    def flatten(images: "UInt8[np.ndarray, 'n H W']") -> "UInt8[np.ndarray, 'n H']":  # noqa: F821
        return images

    with pytest.raises(jaxtyping.TypeCheckError):
        checked(flatten)(drawings(2))
