"""Arithmetic on whole numbers."""

import pytest

from mamlpp_jax.utils.arithmetic import largest_divisor


@pytest.mark.parametrize(
    ("number", "limit", "expected"),
    [(12, 5, 4), (12, 12, 12), (12, 100, 12), (7, 6, 1), (12, 0, 1), (1, 1, 1)],
)
def test_the_largest_divisor_within_a_limit(number, limit, expected):
    assert largest_divisor(number, limit) == expected
