"""Two data sets are the same when every picture, class and split is."""

import dataclasses

import numpy as np
import pytest

from mamlpp_jax.data.fingerprint import fingerprint
from tests.helpers.small_runs import patterns


def moved():
    """The same pictures, one of them in the class before its own."""
    data = patterns()
    sizes = data.class_sizes.copy()
    sizes[:2] += np.array([1, -1], np.int32)
    return dataclasses.replace(data, class_sizes=sizes)


def inverted():
    data = patterns()
    data.images[-1, -1, -1] ^= 255
    return data


OTHERS = {
    "pixel": inverted,
    "sizes": moved,
    "name": lambda: dataclasses.replace(patterns(), class_names=("!", *patterns().class_names[1:])),
    "splits": lambda: dataclasses.replace(
        patterns(), class_splits=("train",) * patterns().num_classes
    ),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_any_difference_shows(other):
    assert fingerprint(other()) != fingerprint(patterns())


def test_the_same_data_from_elsewhere_are_the_same():
    assert fingerprint(dataclasses.replace(patterns(), name="copied")) == fingerprint(patterns())
