"""Arithmetic on whole numbers."""

from __future__ import annotations


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit` (at least 1)."""
    return max(d for d in range(1, max(limit, 1) + 1) if number % d == 0)
