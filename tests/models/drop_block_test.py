"""DropBlock drops whole squares, and only where a key is given."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.models.drop_block import STREAM, DropBlock

SIZE, SQUARE = 10, 3


def drop(x, rate, seed=0, size=SQUARE):
    return np.asarray(
        DropBlock(rate, size).apply({}, jnp.asarray(x), rngs={STREAM: jax.random.key(seed)})
    )


def test_without_a_key_or_a_rate_nothing_is_dropped():
    x = np.ones((2, SIZE, SIZE, 3), np.float32)
    assert np.array_equal(DropBlock(0.5).apply({}, x), x)
    assert np.array_equal(drop(x, 0.0), x)


def test_what_is_dropped_are_squares_inside_the_map():
    y = drop(np.ones((3, SIZE, SIZE, 4), np.float32), 0.2)
    dropped = y == 0
    squares = np.zeros_like(dropped)
    for row, column in itertools.product(range(SIZE - SQUARE + 1), repeat=2):
        where = np.s_[:, row : row + SQUARE, column : column + SQUARE]
        whole = dropped[where].all((1, 2), keepdims=True)
        squares[where] |= whole
    assert np.array_equal(squares, dropped)
    assert 0 < dropped.mean() < 0.5
    assert y.mean() == pytest.approx(1.0, abs=1e-5)
    kept = np.unique(y[~dropped])
    assert len(kept) == 1


def test_about_the_rate_is_dropped_and_another_key_drops_others():
    x = np.ones((64, SIZE, SIZE, 32), np.float32)
    one, other = drop(x, 0.05), drop(x, 0.05, seed=1)
    assert (one == 0).mean() == pytest.approx(0.05, abs=0.01)
    assert not np.array_equal(one, other)
    assert np.array_equal(one, drop(x, 0.05))


def test_a_map_smaller_than_the_square_is_dropped_whole():
    y = drop(np.ones((50, 2, 2, 8), np.float32), 0.3, size=5)
    of_maps = (y == 0).mean((1, 2))
    assert set(np.unique(of_maps)) == {0.0, 1.0}
