"""Tails of Student's distribution without scipy: a report judges p-values on machines that have nothing but Python."""

from __future__ import annotations

import math
from functools import lru_cache


def student_tail(t: float, df: float) -> float:
    """P(T > t) of Student's distribution with `df` degrees of freedom."""
    half = 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + t * t))
    return half if t >= 0 else 1 - half


@lru_cache(maxsize=1024)
def student_point(tail: float, df: float) -> float:
    """The t above which `tail` (below 0.5) of the distribution lies."""
    low, high = 0.0, 1.0
    while student_tail(high, df) > tail:
        high *= 2
    t = (low + high) / 2
    for _ in range(100):
        value = student_tail(t, df)
        low, high = (t, high) if value > tail else (low, t)
        # Newton's step for the logarithm, which is nearly a line far out; in the middle where it leads outside
        following = t + math.log(value / tail) * value / _density(t, df) if value > 0 else low
        following = following if low < following < high else (low + high) / 2
        if abs(following - t) <= 1e-14 * t:
            break
        t = following
    return t


def _density(t: float, df: float) -> float:
    front = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    return front * math.exp(-(df + 1) / 2 * math.log1p(t * t / df))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function by its continued fraction (Lentz's method)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 500):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + term * d), 1 + term / c
            value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * value
