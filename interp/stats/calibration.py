"""Calibration (Guo et al. 1706.04599): of all that was given 70 %, do 70 % come true?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.stats.values import BadValuesError, finite_values

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Predictions of about one probability: their mean, the share that came true, and how many they are."""

    said: float
    came_true: float
    n: int


def reliability(said: ArrayLike, came_true: ArrayLike, bins: int = 10) -> list[Bin]:
    """`bins` groups of as many predictions each, by what was said; equal ones stay together.

    Groups of one size: in bins of one width most would be empty. Raises BadValuesError for probabilities that are none.
    """
    p, right = finite_values(said, "probabilities that were said"), finite_values(came_true, "what came true")
    if p.min() < 0 or p.max() > 1 + 1e-6:
        raise BadValuesError("expected probabilities from 0 to 1, one or more")
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1]))
    which = np.searchsorted(edges, p, side="right")
    return [
        Bin(float(p[some].mean()), float(right[some].mean()), int(some.sum()))
        for k in range(len(edges) + 1)
        if (some := which == k).any()
    ]


def calibration_error(said: ArrayLike, came_true: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: the mean distance of what was said from what came true, group by group.

    Above zero by chance alone, even for perfect probabilities: compare with `honest_errors`.
    """
    found = reliability(said, came_true, bins)
    total = sum(one.n for one in found)
    return sum(one.n * abs(one.said - one.came_true) for one in found) / total


def honest_errors(said: ArrayLike, *, n: int = 200, seed: int = 0) -> Floats:
    """Calibration errors of `n` worlds in which each prediction comes true as often as it says."""
    p = np.asarray(said, np.float64)
    rng = np.random.default_rng(seed)
    return np.array([calibration_error(p, rng.random(len(p)) < p) for _ in range(n)])
