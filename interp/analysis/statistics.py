"""Intervals and nulls. Every function takes a seed and gives the same numbers for it.

The unit of replication is what was drawn at random: the seed, then the template, then the item. Values that share a
unit are averaged before anything is resampled, because items that share tokens are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from interp.analysis.estimate import Estimate

Floats = NDArray[np.float64]


def bootstrap_mean(
    values: ArrayLike, *, unit: str, over: str, n_boot: int = 2000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Mean of `values` [n] or [n, repeats] with a percentile bootstrap interval over the first axis.

    Repeats (templates of one fact) are averaged first. One value gives an interval of no width, and `n` says so.
    """
    means = _unit_means(values)
    n = len(means)
    rng = np.random.default_rng(seed)
    draws = means[rng.integers(0, n, size=(n_boot, n))].mean(axis=1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(means.mean()), float(low), float(high), n, unit, over, level)


def t_interval(
    values: ArrayLike,
    *,
    unit: str,
    over: str,
    level: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """Mean with Student's t interval: for a handful of units (seeds), where a bootstrap is far too narrow.

    `bounds` cuts the interval to what is possible, such as (0, 1) for a share. Equal values give an interval of no
    width. Raises ValueError for fewer than two values.
    """
    means = _unit_means(values)
    if len(means) < 2:
        raise ValueError(f"a t interval needs two units or more, got {len(means)}")
    half = float(stats.t.ppf((1 + level) / 2, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means)))
    mean = float(means.mean())
    low, high = max(mean - half, bounds[0]), min(mean + half, bounds[1])
    return Estimate(mean, low, high, len(means), unit, over, level)


def proportion(successes: Sequence[bool] | NDArray[np.bool_], *, unit: str, over: str, level: float = 0.95) -> Estimate:
    """Share of True with Wilson's interval, which does not collapse at 0 and 1 (Wilson 1927)."""
    n, k = len(successes), int(np.sum(successes))
    interval = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    return Estimate(k / n, float(interval.low), float(interval.high), n, unit, over, level)


def double_centre(matrix: ArrayLike) -> Floats:
    """Subtract row and column means from [..., prompt, answer]: what is left is what prompt and answer share.

    Raw log-probabilities mostly say which answer is common; without this they say nothing of what is known
    (davinci: -8.85 forward against -8.01 reversed, while its answers differ completely).
    """
    m = np.asarray(matrix, dtype=np.float64)
    return m - m.mean(-1, keepdims=True) - m.mean(-2, keepdims=True) + m.mean((-1, -2), keepdims=True)


def matched_scores(matrix: ArrayLike) -> Floats:
    """Double-centred score of each prompt's own answer: the diagonal of [..., n, n] as [..., n]; 0 is chance."""
    return np.diagonal(double_centre(matrix), axis1=-2, axis2=-1).copy()


def top_choice(matrix: ArrayLike) -> NDArray[np.bool_]:
    """Does each prompt's own answer score best once answer priors are taken out? [..., n]; chance is 1/n."""
    centred = double_centre(matrix)
    own = np.diagonal(centred, axis1=-2, axis2=-1)
    return own >= centred.max(-1)


def pairing_null(matrix: ArrayLike, *, unit: str, n_perm: int = 2000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Mean matched score when answers are dealt to prompts at random: the null of "the model pairs them".

    `matrix` is [template, n, n] or [n, n]; one permutation is dealt to all templates, as the facts are the same.
    The interval holds the middle `level` of the permutations.
    """
    centred = double_centre(matrix)
    if centred.ndim == 3:
        centred = centred.mean(0)
    n = centred.shape[-1]
    rng = np.random.default_rng(seed)
    rows = np.arange(n)
    draws = np.array([centred[rows, rng.permutation(n)].mean() for _ in range(n_perm)])
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(draws.mean()), float(low), float(high), n_perm, unit, "permutation", level)


def sign_flip_null(values: ArrayLike, *, unit: str, n_perm: int = 2000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Mean of paired differences when each unit's sign is a coin toss: the null of "there is no difference"."""
    means = _unit_means(values)
    rng = np.random.default_rng(seed)
    draws = (means * rng.choice([-1.0, 1.0], size=(n_perm, len(means)))).mean(axis=1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(draws.mean()), float(low), float(high), n_perm, unit, "permutation", level)


def known(value: float, *, unit: str, why: str) -> Estimate:
    """A number known beforehand, such as chance, in the form of an estimate; `why` stands where the unit of n would."""
    return Estimate(value, value, value, 0, unit, why)


def _unit_means(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values to average")
    return array if array.ndim == 1 else array.reshape(len(array), -1).mean(axis=1)
