"""Other numbers of classes than trained."""

import jax.numpy as jnp
import numpy as np

from mamlpp_jax.models import with_ways
from mamlpp_jax.types import MetaParams


def test_other_ways_take_the_first_columns_or_repeat_the_mean():
    head = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.array([0.0, 3.0, 6.0])}
    meta = MetaParams({"linear": head, "conv0": {"bias": jnp.ones(3)}}, {}, {})
    fewer = with_ways(meta, 2).params
    np.testing.assert_array_equal(fewer["linear"]["kernel"], head["kernel"][:, :2])
    np.testing.assert_array_equal(fewer["linear"]["bias"], [0, 3])
    more = with_ways(meta, 5).params
    np.testing.assert_array_equal(more["linear"]["kernel"][:, 3:], [[1, 1], [4, 4]])
    np.testing.assert_array_equal(more["linear"]["bias"], [0, 3, 6, 3, 3])
    np.testing.assert_array_equal(more["conv0"]["bias"], jnp.ones(3))
