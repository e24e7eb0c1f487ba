"""Other numbers of classes than trained."""

import jax.numpy as jnp
import numpy as np

from mamlpp_jax.models.head import head_with_ways, with_ways
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


def test_rates_of_every_weight_follow_the_head_and_others_do_not():
    kernel, bias = np.arange(6.0).reshape(2, 3), np.arange(3.0)
    rates = {"kernel": kernel[None], "bias": np.zeros((1, 3))}
    per_tensor = {"kernel": np.arange(3.0), "bias": np.arange(3.0)}  # of three inner steps
    params = {"conv0": {"kernel": kernel}, "linear": {"kernel": kernel, "bias": bias}}
    for inner, shape in (
        ({"conv0": {"kernel": kernel[None]}, "linear": rates}, (1, 2, 5)),
        ({"rate": {"linear": per_tensor}}, (3,)),
    ):
        fitted = with_ways(MetaParams(params, {}, inner), 5)
        assert fitted.params["linear"]["kernel"].shape == (2, 5)
        found = fitted.inner.get("linear") or fitted.inner["rate"]["linear"]
        assert found["kernel"].shape == shape
        if "conv0" in inner:
            np.testing.assert_array_equal(found["kernel"], with_ways_of(kernel, 5)[None])
            np.testing.assert_array_equal(fitted.inner["conv0"]["kernel"], kernel[None])


def with_ways_of(kernel, ways):
    mean = kernel.mean(1, keepdims=True)
    return np.concatenate([kernel, np.repeat(mean, ways - kernel.shape[1], 1)], 1)


def test_a_head_of_one_column_becomes_equal_ones():
    head = {"kernel": np.array([[0.3], [-1.7]], np.float32), "bias": np.full(1, 0.1, np.float32)}
    wide = head_with_ways({"linear": head, "conv0": 1}, 4)
    np.testing.assert_array_equal(wide["linear"]["kernel"], np.tile(head["kernel"], 4))
    np.testing.assert_array_equal(wide["linear"]["bias"], np.full(4, 0.1, np.float32))
    assert wide["conv0"] == 1
