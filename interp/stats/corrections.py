"""Corrections for many comparisons: which of many places exceed chance, when one in twenty looks it by itself."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.stats.estimate import Estimate
from interp.stats.tails import student_point, student_tail

FEW_FREE, UNITS_A_FREEDOM = 2.0, 8  # degrees of freedom far out in a tail: at least, and units for one
MANY = 12  # units up to which every pattern of signs is tried instead of a sample


def max_t(values: ArrayLike, *, n_perm: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """Two-sided p-values [place] for "the mean over units is 0", corrected for all places together.

    `values` [unit, place…]: one effect a unit and place, NaN where a unit has no such place. Every unit's sign is
    flipped at random, for all its places alike, and a place is compared with the largest |t| anywhere (Westfall and
    Young 1993, Nichols and Holmes 2002): the chance of a single false place among them is at most the p-value's level,
    however the places depend on each other. Holds where a unit's effects, without an effect, are as likely the one
    sign as the other. With n units no p-value lies below 2 / 2**n.
    Raises ValueError for fewer than two units, a place without any, and infinite values.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim < 2 or not table.size:
        raise ValueError(f"max_t needs [unit, place], two units or more; shape {table.shape} came")
    shape, table = table.shape[1:], table.reshape(len(table), -1)
    n = (~np.isnan(table)).sum(0)
    if np.isinf(table).any():
        raise ValueError("max_t got infinite values, such as a share of a total of 0; leave those units out")
    if n.min() < 2:
        raise ValueError(f"max_t needs two units or more at every place; {int(n.min())} came")
    if len(table) <= MANY:
        signs = np.array(np.meshgrid(*[[1.0, -1.0]] * len(table), indexing="ij")).reshape(len(table), -1).T
    else:
        drawn = np.random.default_rng(seed).choice([1.0, -1.0], size=(n_perm, len(table)))
        signs = np.concatenate([np.ones((1, len(table))), drawn])  # what was seen is one of the patterns
    filled = np.nan_to_num(table)
    filled /= np.maximum(np.abs(filled).max(0), np.finfo(np.float64).tiny)  # t has no unit, squares overflow
    squares = (filled**2).sum(0)
    means = signs @ filled / n  # [pattern, place]
    # flipping signs leaves the sum of squares alone, so that a variance follows from the mean
    spread = np.sqrt(np.maximum(squares / n - means**2, 1e-12 * squares / n) / (n - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.nan_to_num(np.abs(means) / spread, nan=0.0)
    largest = t.max(1)
    return (largest[:, None] >= t[0] * (1 - 1e-9)).mean(0).reshape(shape)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values [claim] (1979): below a level, a claim stands even if all of them are asked together.

    The chance of a single false one among them is at most the level, however they depend on each other.
    Raises ValueError for what is no probability.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"holm needs p-values between 0 and 1 in one row; {p.tolist()} came")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def p_above(estimate: Estimate, line: float) -> float:
    """One-sided p-value of "the number is no larger than `line`", read off the estimate's interval.

    It is the tail at which the interval would just touch the line: the lower limit is taken to move with Student's
    quantile (of a null, the normal one) as the level changes. At the interval's own level that is exact, so p is below
    its tail (0.025 of 95 %) just where the interval clears the line. Farther out nobody knows the tail of a mean of few
    units, and that of skewed ones is far heavier than Student's at n - 1: so an eighth of the units, two at least, are
    taken for degrees of freedom (`scripts/simulate_statistics.py` has what that holds). Without width it is 0 or 1.
    """
    reach, distance = estimate.mean - estimate.low, estimate.mean - line
    if reach <= 0:
        return 0.0 if distance > 0 else 1.0
    if estimate.is_null or estimate.is_known:
        return NormalDist().cdf(-NormalDist().inv_cdf((1 + estimate.level) / 2) * distance / reach)
    df = min(estimate.freedom, max(FEW_FREE, estimate.n / UNITS_A_FREEDOM))
    return student_tail(student_point((1 - estimate.level) / 2, df) * distance / reach, df)


def p_below(estimate: Estimate, line: float) -> float:
    """One-sided p-value of "the number is no smaller than `line`", the mirror image of `p_above`."""
    return p_above(mirrored(estimate), -line)


def mirrored(estimate: Estimate) -> Estimate:
    """The same estimate with its sign turned round."""
    e = estimate
    return replace(e, mean=-e.mean, low=-e.high, high=-e.low)
