"""Divisors, and the t of intervals."""

from __future__ import annotations


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit` (at least 1)."""
    return max(d for d in range(1, max(limit, 1) + 1) if number % d == 0)


def student_t95(dof: int) -> float:
    """The t that Student's distribution with `dof` >= 1 degrees of freedom stays within with probability 0.95."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, 0.975))
