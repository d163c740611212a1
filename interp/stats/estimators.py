"""Intervals and nulls. Every function takes a seed and gives the same numbers for it.

The unit of replication is what was drawn at random: the seed, then the template, then the item. Values that share a
unit are averaged before anything is resampled, because items that share tokens are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from interp.stats.estimate import PERMUTATION, Estimate
from interp.stats.values import BadValuesError, finite_values

Floats = NDArray[np.float64]
FEW = 20  # units: below it, a bootstrap's interval is too narrow


def estimate_mean(
    values: ArrayLike,
    *,
    unit: str,
    over: str,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Mean of `values` [n] or [n, repeats] with an interval over the first axis; repeats are averaged first.

    Below 20 units the interval is Student's, for a bootstrap of a handful is far too narrow (it holds the mean in 80 %
    of cases for 4 units). From there it is the percentile bootstrap, its quantiles moved out to where Student's would
    lie for normal data (Hesterberg 2015, "expanded percentile").

    `bounds` are the least and greatest possible value, such as (0, 1) for a share: they cut the interval, and values
    that are all alike get Wilson's instead of one without width. One value gives an interval without width, and n = 1
    says so. Means of few and very skewed values are held less often (lognormal: 83 % of 5, 91 % of 48 units).
    Raises BadValuesError for no values, NaN and infinite ones (it counts them), and values outside their bounds.
    """
    means = _unit_means(values, f"estimate_mean in {unit} over {over}")
    n, mean = len(means), float(means.mean())
    if not bounds[0] <= means.min() <= means.max() <= bounds[1]:
        raise BadValuesError(f"values from {means.min():g} to {means.max():g} outside their bounds {bounds}")
    if n == 1:
        return Estimate(mean, mean, mean, 1, unit, over, level)
    if np.allclose(means, mean, rtol=0, atol=1e-12) and np.isfinite(bounds).all():
        span = bounds[1] - bounds[0]
        low, high = (bounds[0] + span * end for end in _wilson((mean - bounds[0]) / span * n, n, level))
    elif n < FEW:
        half = float(stats.t.ppf((1 + level) / 2, n - 1) * means.std(ddof=1) / np.sqrt(n))
        low, high = mean - half, mean + half
    else:
        draws = means[np.random.default_rng(seed).integers(0, n, size=(n_boot, n))].mean(axis=1)
        tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1))
        low, high = np.quantile(draws, [tail, 1 - tail])
    low, high = min(max(float(low), bounds[0]), mean), max(min(float(high), bounds[1]), mean)  # rounding moves a mean
    return Estimate(mean, low, high, n, unit, over, level)


def estimate_crossed(
    groups: Sequence[ArrayLike],
    *,
    less: Sequence[ArrayLike] | None = None,
    unit: str,
    over: str,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    level: float = 0.95,
) -> Estimate:
    """Mean over groups (relations) of [template, item] matrices, with an interval for other templates and other items.

    Every item is asked in every template, so neither axis alone is the unit. The variance of a group's mean is that of
    its template means over their number plus that of its item means over theirs (Owen 2007, "The pigeonhole
    bootstrap"); the degrees of freedom are Satterthwaite's. Groups are weighed by their items and taken as given: the
    interval says nothing of further relations. `n` counts the items.

    `less` are matrices of the same items in other templates, subtracted: the gap between two directions. With `bounds`
    (the least and greatest possible value), two further items, one at each end, are added to the variance (as Agresti
    and Min 2005 do for pairs), so that values that are all alike are no certainty.

    What the templates at hand do not show is not in the interval: three good wordings do not tell of one in four that
    fails. Raises BadValuesError for a group of fewer than two templates or items, and for NaN and infinite values.
    """
    ours = [np.asarray(group, dtype=np.float64) for group in groups]
    theirs = [np.asarray(group, dtype=np.float64) for group in less] if less is not None else [None] * len(ours)
    tables = [table for table in (*ours, *theirs) if table is not None]
    if not ours or min(min(table.shape) for table in tables) < 2:
        raise BadValuesError("a crossed interval needs two templates and two items or more in every group")
    for number, table in enumerate(tables):
        finite_values(table, f"estimate_crossed in {unit} over {over}, table {number}")
    n = sum(table.shape[1] for table in ours)
    mean, parts = 0.0, []  # each part: a variance and its degrees of freedom
    for table, other in zip(ours, theirs, strict=True):
        weight = table.shape[1] / n
        items = table.mean(0) if other is None else table.mean(0) - other.mean(0)
        mean += float(weight * items.mean())
        axes = (items, table.mean(1), *([] if other is None else [other.mean(1)]))
        parts += [(weight**2 * means.var(ddof=1) / len(means), len(means) - 1) for means in axes]
    if np.isfinite(bounds).all():
        parts.append((2 * ((bounds[1] - bounds[0]) / 2 / (n + 2)) ** 2, n - 1))
    variance = sum(part for part, _ in parts)
    half = 0.0
    if variance > 0:
        freedom = variance**2 / sum(part**2 / df for part, df in parts)
        half = float(stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(variance))
    low, high = min(max(mean - half, bounds[0]), mean), max(min(mean + half, bounds[1]), mean)
    return Estimate(mean, low, high, n, unit, over, level)


def proportion(successes: Sequence[bool] | NDArray[np.bool_], *, unit: str, over: str, level: float = 0.95) -> Estimate:
    """Share of True with Wilson's interval, which does not collapse at 0 and 1 (Wilson 1927).

    Raises BadValuesError for no values and for NaN.
    """
    values = finite_values(successes, f"proportion in {unit} over {over}")
    n, k = len(values), int(values.sum())
    return Estimate(k / n, *_wilson(k, n, level), n, unit, over, level)


def double_centre(matrix: ArrayLike) -> Floats:
    """Subtract row and column means from [..., prompt, answer]: what is left is what prompt and answer share.

    Raw log-probabilities mostly say which answer is common; without this they say nothing of what is known
    (davinci: -8.85 forward against -8.01 reversed, while its answers differ completely).
    """
    m = finite_values(matrix, "a matrix of prompts and answers")
    return m - m.mean(-1, keepdims=True) - m.mean(-2, keepdims=True) + m.mean((-1, -2), keepdims=True)


def matched_scores(matrix: ArrayLike) -> Floats:
    """How far each prompt's own answer scores above the others, priors taken out: [..., n, n] to [..., n]; 0 is chance.

    A bonus of b on every own answer gives b.
    """
    return np.diagonal(_above_others(matrix), axis1=-2, axis2=-1).copy()


def top_choice(matrix: ArrayLike) -> Floats:
    """Does each prompt's own answer score best once answer priors are taken out? [..., n]; chance is 1/n.

    1 or 0, and 1/k where k answers tie for the best: a model that tells nothing apart is at chance, not always right.
    """
    centred = double_centre(matrix)
    best = np.isclose(centred, centred.max(-1, keepdims=True), rtol=0, atol=1e-9)
    return np.diagonal(best, axis1=-2, axis2=-1) / best.sum(-1)


def pairing_null(matrix: ArrayLike, *, unit: str, n_perm: int = 2000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Mean matched score when answers are dealt to prompts at random: the null of "the model pairs them".

    `matrix` is [template, n, n] or [n, n]; one permutation is dealt to all templates, as the facts are the same.
    The interval holds the middle `level` of the permutations.
    """
    return pooled_pairing_null([matrix], unit=unit, n_perm=n_perm, seed=seed, level=level)


def pooled_pairing_null(
    matrices: Sequence[ArrayLike], *, unit: str, n_perm: int = 2000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """`pairing_null` of the mean over the prompts of several matrices: answers are dealt within each."""
    scores = [above if above.ndim == 2 else above.mean(0) for above in map(_above_others, matrices)]
    rng = np.random.default_rng(seed)
    draws = [
        np.concatenate([m[np.arange(len(m)), rng.permutation(len(m))] for m in scores]).mean() for _ in range(n_perm)
    ]
    return null_of(draws, unit=unit, level=level)


def sign_flip_null(values: ArrayLike, *, unit: str, n_perm: int = 2000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Mean of paired differences when each unit's sign is a coin toss: the null of "there is no difference"."""
    means = _unit_means(values, f"sign_flip_null in {unit}")
    rng = np.random.default_rng(seed)
    return null_of((means * rng.choice([-1.0, 1.0], size=(n_perm, len(means)))).mean(axis=1), unit=unit, level=level)


def known(value: float, *, unit: str, why: str) -> Estimate:
    """A number known beforehand, such as chance, in the form of an estimate; `why` stands where the unit of n would."""
    return Estimate(value, value, value, 0, unit, why)


def _above_others(matrix: ArrayLike) -> Floats:
    """Double-centred scores, stretched to what an own answer has above the others: centring takes 1/n of it away."""
    centred = double_centre(matrix)
    n = centred.shape[-1]
    return centred * (n / (n - 1))


def null_of(draws: ArrayLike, *, unit: str, level: float = 0.95) -> Estimate:
    """The middle `level` of a number's values under chance, one a permutation, as the estimate of a null."""
    values = finite_values(draws, f"draws of a null in {unit}")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    mean = min(max(float(values.mean()), float(low)), float(high))
    return Estimate(mean, float(low), float(high), len(values), unit, PERMUTATION, level)


def _wilson(successes: float, n: int, level: float) -> tuple[float, float]:
    """Wilson's interval for a share; `successes` need not be whole. Exactly 0 and 1 at the ends."""
    z, share = float(stats.norm.ppf((1 + level) / 2)), successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return 0.0 if share == 0 else float(middle - half), 1.0 if share == 1 else float(middle + half)


def _unit_means(values: ArrayLike, who: str) -> Floats:
    array = finite_values(values, who)
    return array if array.ndim == 1 else array.reshape(len(array), -1).mean(axis=1)
