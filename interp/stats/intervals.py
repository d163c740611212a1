"""Bare intervals, without the words of an `Estimate`: of a bootstrap's draws, and of many groups at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special


class Interval(NamedTuple):
    """A number with its 95 % interval."""

    mean: float
    low: float
    high: float


def student_quantile(df: int, level: float = 0.95) -> float:
    """How many standard errors an interval of Student's distribution reaches to either side."""
    return float(special.stdtrit(df, (1 + level) / 2))


def expanded_percentile(values: NDArray[np.float64], n: int) -> Interval:
    """The interval of a bootstrap: `values[0]` is the measured number, the others are resampled over `n` units.

    The percentiles are moved away from it as far as Student's would lie for normal data (Hesterberg 2015): few units
    give too narrow a bootstrap (16: 91 % instead of 95). One value alone is an interval without width.
    """
    mean = float(values[0])
    if len(values) == 1:
        return Interval(mean, mean, mean)
    wider = student_quantile(n - 1) / float(special.ndtri(0.975)) * (n / (n - 1)) ** 0.5
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Interval(mean, mean - wider * max(mean - float(low), 0.0), mean + wider * max(float(high) - mean, 0.0))


def intervals_of_groups(
    group: NDArray[np.int64], values: NDArray[np.float32], n: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Mean, low and high of each group's values by Student's interval; NaN bounds for fewer than two.

    `group` [value] is the group of each value, `n` [group] how many it has.
    """
    wide = values.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(group, wide, minlength=len(n)) / n
        squares = np.bincount(group, np.square(wide - mean[group]), minlength=len(n))
        reach = np.where(n > 1, special.stdtrit(np.maximum(n - 1, 1), 0.975), np.nan)
        half = reach * np.sqrt(squares / (n - 1) / n)
    return mean, mean - half, mean + half
