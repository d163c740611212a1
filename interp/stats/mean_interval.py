"""Confidence limits of a mean that heed the sample's shape. All functions take [..., unit], many samples at once.

Student's interval holds the mean of skewed or mostly-zero values in 67 to 90 % of studies instead of 95, and it misses
on one side only: where the long tail is. Four things widen that side here, and leave the other one to Student:

- *Skewness* (Johnson 1978, Hall 1992): the reach grows with the sample's own skewness. Their factor is multiplied by 2
  for few units and by 4 for many, for a small sample shows less skewness than there is.
- *One sign*: values that never cross zero (or their bound) get the limit on the log scale, mean * exp(t * error /
  mean), which is what few zeros-and-something or lognormal values need. It changes little where the spread is small
  beside the mean.
- *One point*: where at least half of the values are the same and fewer than six others are there, these do not say on
  which side the long tail lies; both limits reach as far as the farther.
- *Bounds on both sides*: Gaffke's limit (2005) puts one more value on the bound and weighs all values at random. For
  values of 0 and 1 it is Clopper and Pearson's. Where a sample may hide a tail, it alone counts: most values beside
  one bound, or only a few different ones (three that are seen, and a rare fourth). Elsewhere the nearer of it and the
  limit above counts.

What that holds, and what it costs on normal values, is measured by `scripts/simulate_statistics.py`; the table is in
this folder's README.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Bounds = tuple[float, float]
LONGEST = 5.0  # a longer reach on the log scale than e**5 of the mean says no more than "unknown"
DRAWN_UP_TO = 400  # units; above, Gaffke's limit costs much and narrows little
BESIDE = 0.02  # of the span between the bounds: as near counts as beside one
FEW_VALUES = 3  # different values, of six units or more; of fewer half as many as units, of many an eighth
FEW_OTHERS = 6  # six that lie on one side of a point do so by chance in 3 % (a sign test's p), five in 6 %
_TINY = float(np.finfo(np.float64).tiny)


def mean_limits(
    values: Floats, bounds: Bounds, *, level: float = 0.95, n_draws: int = 2000, seed: int = 0
) -> tuple[Floats, Floats]:
    """Lower and upper limit [...] of the mean of `values` [..., unit], two units or more, not cut at the bounds."""
    low, high = _reach(values, bounds, level, -1), _reach(values, bounds, level, 1)
    if not np.isfinite(bounds).all():
        return low, high
    at_ends = np.isin(values, bounds).all(-1) | alike(values)
    drawn = gaffke_limits(values, bounds, level, n_draws, seed) if values.shape[-1] <= DRAWN_UP_TO else (low, high)
    exact = _exact_limits(values, bounds, level) if at_ends.any() else drawn
    alone = _may_hide_a_tail(values, bounds)
    return (
        np.where(at_ends, exact[0], np.where(alone, drawn[0], np.maximum(low, drawn[0]))),
        np.where(at_ends, exact[1], np.where(alone, drawn[1], np.minimum(high, drawn[1]))),
    )


def _may_hide_a_tail(values: Floats, bounds: Bounds) -> NDArray[np.bool_]:
    """Do most of the values [..., unit] lie beside one bound, or are only a few of them different?

    Then what decides the mean is how often something rare comes, and the spread of those at hand does not tell.
    """
    n, span = values.shape[-1], bounds[1] - bounds[0]
    beside = [(np.abs(values - bound) <= BESIDE * span).mean(-1) > 0.5 for bound in bounds]
    different = 1 + (np.diff(np.sort(values, axis=-1), axis=-1) > 1e-9 * span).sum(-1)
    return beside[0] | beside[1] | (different <= max(min(FEW_VALUES, n // 2), n // 8))


def alike(values: Floats) -> NDArray[np.bool_]:
    """Are all units [..., unit] alike, but for the rounding of their arithmetic?"""
    spread = values.max(-1) - values.min(-1)
    return spread <= np.maximum(1e-12, 1e-12 * np.abs(values).max(-1))


def gaffke_limits(values: Floats, bounds: Bounds, level: float, n_draws: int, seed: int) -> tuple[Floats, Floats]:
    """Limits for values between bounds, whatever their distribution: weighted means with one more value on the bound.

    The weights are drawn as those of n + 1 gaps between n random points (Gaffke 2005; Learned-Miller and Thomas 2019).
    """
    n = values.shape[-1]
    weights = _gaps(n, n_draws, seed)
    tail = (1 - level) / 2
    ordered = np.sort(values, axis=-1)  # its order must not decide
    ends = [np.full((*values.shape[:-1], 1), bound) for bound in bounds]
    low = np.quantile(np.concatenate([ends[0], ordered], -1) @ weights.T, tail, axis=-1)
    high = np.quantile(np.concatenate([ordered, ends[1]], -1) @ weights.T, 1 - tail, axis=-1)
    return low, high


@lru_cache(maxsize=16)
def _gaps(n: int, n_draws: int, seed: int) -> Floats:
    """The gaps [draw, gap] between `n` random points and the two ends: to be read only, for it is kept."""
    return np.random.default_rng(seed).dirichlet(np.ones(n + 1), size=n_draws)


def clopper_pearson(successes: Any, n: int, level: float = 0.95) -> tuple[Floats, Floats]:
    """Limits for a share of `successes` in `n`, exact: neither side misses more often than it says."""
    k, tail = np.asarray(successes, np.float64), (1 - level) / 2
    low = np.where(k > 0, special.betaincinv(np.maximum(k, _TINY), n - k + 1, tail), 0.0)
    high = np.where(k < n, special.betaincinv(k + 1, np.maximum(n - k, _TINY), 1 - tail), 1.0)
    return low, high


def _exact_limits(values: Floats, bounds: Bounds, level: float) -> tuple[Floats, Floats]:
    """Gaffke's limits without drawing: where all values lie on the bounds, or are all alike."""
    n, span = values.shape[-1], bounds[1] - bounds[0]
    share = clopper_pearson(np.round(((values - bounds[0]) / span).sum(-1)), n, level)
    mean, unseen = values.mean(-1), 1 - ((1 - level) / 2) ** (1 / n)  # this share of the units may be unlike the others
    same = alike(values)
    return (
        np.where(same, mean - unseen * (mean - bounds[0]), bounds[0] + span * share[0]),
        np.where(same, mean + unseen * (bounds[1] - mean), bounds[0] + span * share[1]),
    )


def _reach(values: Floats, bounds: Bounds, level: float, side: int) -> Floats:
    """The limit on one side: above for `side` 1, below for -1."""
    n = values.shape[-1]
    x = values * side
    mean, spread = x.mean(-1), x.std(-1, ddof=1)
    t = float(special.stdtrit(n - 1, (1 + level) / 2))
    half = t * spread / np.sqrt(n)
    far = bounds[0] if side > 0 else -bounds[1]  # the end that a long tail on this side leads away from
    factor = _factor(x, x - far if np.isfinite(far) else x, half, t)
    # Where nearly all lie on one point, the few others do not say to which side the rest lead: either may be the long.
    common = np.median(x, -1, keepdims=True)
    others = (x != common).sum(-1)
    on_one_point = (others <= n / 2) & (others < FEW_OTHERS)
    if on_one_point.any():
        mirrored = _factor(common - x, common - x, half, t)
        factor = np.where(on_one_point, np.maximum(factor, mirrored), factor)
    return side * (mean + half * factor)


def _factor(x: Floats, from_end: Floats, half: Floats, t: float) -> Floats:
    """How much farther than Student's the limit above the mean lies, 1 or more; `from_end` [..., unit] starts at 0."""
    one_sign = (from_end.min(-1) >= 0) & (from_end.max(-1) > 0)
    farther = np.where(one_sign, 2.5, min(2 + x.shape[-1] / 16, 4)) * _johnson(x, t)
    return (1 + farther) * np.where(one_sign, _log_scale_factor(from_end, half), 1.0)


def _johnson(x: Floats, t: float) -> Floats:
    """By what share a limit above the mean moves away because of a long tail up there (Johnson 1978); 0 without one."""
    off = x - x.mean(-1, keepdims=True)
    off = off / np.maximum(np.abs(off).max(-1, keepdims=True), _TINY)  # skewness has no unit, cubes overflow
    skewness = (off**3).mean(-1) / np.maximum((off**2).mean(-1), 1e-100) ** 1.5
    return np.maximum((1 + 2 * t * t) / (6 * t) * skewness / np.sqrt(x.shape[-1]), 0.0)


def _log_scale_factor(x: Floats, half: Floats) -> Floats:
    """How much farther it lies on the log scale, for values that start at zero (or at a bound) and go up.

    Values without a single zero among them may be lognormal, whose spread varies more than a few of them show: then the
    error grows with spread over mean, which leaves values far from zero as they are.
    """
    mean = x.mean(-1)
    mean = np.where(mean > 0, mean, np.inf)  # what is not of one sign needs no factor
    relative = np.clip(half / mean, 1e-9, 1e9)
    varied = np.minimum(x.std(-1, ddof=1) / mean, 1.0) ** 2 * 24 / x.shape[-1]
    stretch = np.where(x.min(-1) > 0, np.sqrt(1 + varied), 1.0)
    return np.maximum(np.expm1(np.minimum(relative * stretch, LONGEST)) / relative, 1.0)
