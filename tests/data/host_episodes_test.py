"""Prefetching: in order, ahead of time, and over when nobody wants more."""

import contextlib
import threading
import time

import pytest

from mamlpp_jax.data.host_episodes import prefetched


def test_what_is_prefetched_comes_in_order_and_ahead():
    made, enough = [], threading.Event()

    def make(number):
        made.append(number)
        if len(made) == 3:
            enough.set()
        return 2 * number

    with contextlib.closing(prefetched(make, range(10))) as numbers:
        assert next(numbers) == 0
        assert enough.wait(60)  # 1 and 2 without being asked for
        time.sleep(0.05)
        assert len(made) == 3
        assert list(numbers) == list(range(2, 20, 2))


def test_an_error_of_the_thread_reaches_the_consumer_and_leaving_early_ends_it():
    def make(number):
        if number == 1:
            raise OSError("the disk is gone")
        return number

    numbers = prefetched(make, range(5))
    assert next(numbers) == 0
    with pytest.raises(OSError, match="the disk is gone"):
        next(numbers)
    numbers = prefetched(lambda number: number, range(1000))
    assert next(numbers) == 0
    numbers.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
