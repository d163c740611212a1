"""Intervals and nulls. Every function takes a seed and gives the same numbers for it.

The unit of replication is what was drawn at random: the seed, then the template, then the item. Values that share a
unit are averaged before anything is resampled, because items that share tokens are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.stats.estimate import PERMUTATION, Estimate
from interp.stats.mean_interval import alike, clopper_pearson, mean_limits
from interp.stats.values import BadValuesError, check_bounds, finite_values

Floats = NDArray[np.float64]
ROUNDED = 4 * float(np.finfo(np.float32).eps)  # relative: what two float32 values' difference may be off by, and back


def estimate_mean(
    values: ArrayLike,
    *,
    unit: str,
    over: str,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    exact: bool = False,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Mean of `values` [n] or [n, repeats] with an interval over the first axis; repeats are averaged first.

    The interval is Student's, reaching farther on the side of a long tail (`interp.stats.mean_interval` says how), so
    that skewed and mostly-zero values are held about as often as normal ones. What it holds, and where it falls short
    (few values of a long tail that cross zero: 88 to 94 %, every miss on one side), stands in `interp/stats/README.md`.

    `bounds` are the least and greatest possible value, such as (0, 1) for a share. They cut the interval, and what lies
    between two bounds gets Gaffke's, drawn from `n_boot` weights, where that is nearer: Clopper and Pearson's for
    values of 0 and 1. One value gives an interval without width, and n = 1 says so.

    Values that are all alike show no spread: without two bounds the estimate is marked `alike`, and a verdict on it is
    unclear. Where they must be alike by construction, as a count that a formula gives, `exact` says so: then their
    mean is certain.
    Raises BadValuesError for no values, NaN and infinite ones (it counts them), and values outside their bounds.
    """
    means = _unit_means(values, f"estimate_mean in {unit} over {over}")
    check_bounds(bounds)
    if not 0 < level < 1 or n_boot < 1:
        raise BadValuesError(f"level {level:g} and n_boot {n_boot}; expected a level between 0 and 1, one draw or more")
    n, mean = len(means), float(means.mean())
    if not bounds[0] <= means.min() <= means.max() <= bounds[1]:
        raise BadValuesError(f"values from {means.min():g} to {means.max():g} outside their bounds {bounds}")
    same = bool(alike(means))
    if n == 1 or (same and exact):
        return Estimate(mean, mean, mean, n, unit, over, level)
    if same and not np.isfinite(bounds).all():
        return Estimate(mean, mean, mean, n, unit, over, level, alike=True)
    low, high = mean_limits(means, bounds, level=level, n_draws=n_boot, seed=seed)
    low, high = min(max(float(low), bounds[0]), mean), max(min(float(high), bounds[1]), mean)  # rounding moves a mean
    return Estimate(mean, low, high, n, unit, over, level)


class PairedEstimates(NamedTuple):
    """Two numbers of the same units, and their difference unit by unit: what `Finding(paired=gap)` decides by."""

    estimate: Estimate
    control: Estimate
    gap: Estimate


def estimate_gap(
    values: ArrayLike,
    control: ArrayLike,
    *,
    unit: str,
    over: str,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedEstimates:
    """Paired difference: `values` and `control` [n] of the same units, in the same order, and `values - control`.

    Two intervals added up as if independent are too wide where the units go up and down together (power is lost) and
    too narrow where the two are parts of one whole (false verdicts); the difference of each unit knows of neither.
    Give its `gap` to `Finding(paired=…)`. `bounds` are those of both. Raises BadValuesError where the numbers of units
    differ, and for what `estimate_mean` refuses.
    """
    first, second = (_unit_means(v, f"estimate_gap in {unit} over {over}") for v in (values, control))
    if len(first) != len(second):
        raise BadValuesError(
            f"estimate_gap got {len(first)} values and {len(second)} of the control; expected the same units, in the "
            "same order; for units that differ, give the finding two estimates and no paired gap"
        )
    gap = first - second
    if float(np.ptp(gap)) <= ROUNDED * max(np.abs(first).max(), np.abs(second).max()):
        gap = np.full_like(gap, gap.mean())  # of float32 values, what is alike differs by rounding
    ends = (bounds, bounds, (bounds[0] - bounds[1], bounds[1] - bounds[0]))
    return PairedEstimates(
        *(
            estimate_mean(v, unit=unit, over=over, bounds=b, n_boot=n_boot, seed=seed, level=level)
            for v, b in zip((first, second, gap), ends, strict=True)
        )
    )


def proportion(successes: Sequence[bool] | NDArray[np.bool_], *, unit: str, over: str, level: float = 0.95) -> Estimate:
    """Share of True with Clopper and Pearson's interval (1934), which does not collapse at 0 and 1.

    Neither side misses more often than it says, whatever the share; Wilson's is narrower, and misses a share near 0 or
    1 in up to 15 % of studies, on one side. Raises BadValuesError for no values and for NaN.
    """
    values = finite_values(successes, f"proportion in {unit} over {over}")
    if not np.isin(values, (0.0, 1.0)).all():
        raise BadValuesError(
            f"proportion in {unit} over {over} got {values.min():g} to {values.max():g}; expected True and False, or 1 "
            "and 0; a mean of shares is estimate_mean's"
        )
    n, k = len(values), int(values.sum())
    low, high = clopper_pearson(k, n, level)
    return Estimate(k / n, min(float(low), k / n), max(float(high), k / n), n, unit, over, level)


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
    return null_of(pairing_draws(matrices, n_perm=n_perm, seed=seed), unit=unit, level=level)


def pairing_draws(matrices: Sequence[ArrayLike], *, n_perm: int = 2000, seed: int = 0) -> Floats:
    """The values of `pooled_pairing_null`, one a permutation: for `null_of` and `permutation_p`."""
    scores = [above if above.ndim == 2 else above.mean(0) for above in map(_above_others, matrices)]
    rng = np.random.default_rng(seed)
    dealt = [[m[np.arange(len(m)), rng.permutation(len(m))] for m in scores] for _ in range(n_perm)]
    return np.array([np.concatenate(one).mean() for one in dealt])


def sign_flip_null(values: ArrayLike, *, unit: str, n_perm: int = 2000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Mean of paired differences when each unit's sign is a coin toss: the null of "there is no difference"."""
    return null_of(sign_flip_draws(values, n_perm=n_perm, seed=seed), unit=unit, level=level)


def sign_flip_draws(values: ArrayLike, *, n_perm: int = 2000, seed: int = 0) -> Floats:
    """The values of `sign_flip_null`, one a toss of all coins: for `null_of` and `permutation_p`."""
    means = _unit_means(values, "sign_flip_draws")
    rng = np.random.default_rng(seed)
    return (means * rng.choice([-1.0, 1.0], size=(n_perm, len(means)))).mean(axis=1)


def permutation_p(draws: ArrayLike, mean: float) -> float:
    """One-sided permutation p: how often chance alone gives as much as `mean`, which counts as one more draw itself."""
    values = finite_values(draws, "draws of a null").ravel()
    if not math.isfinite(mean):
        raise BadValuesError(f"permutation_p got {mean} to compare with the draws; expected a finite number")
    return (1 + int((values >= mean - 1e-12).sum())) / (1 + len(values))


def known(value: float, *, unit: str, why: str) -> Estimate:
    """A number known beforehand, such as chance, in the form of an estimate; `why` stands where the unit of n would."""
    return Estimate(value, value, value, 0, unit, why)


def _above_others(matrix: ArrayLike) -> Floats:
    """Double-centred scores, stretched to what an own answer has above the others: centring takes 1/n of it away."""
    centred = double_centre(matrix)
    n = centred.shape[-1]
    if centred.shape[-2] != n or n < 2:
        raise BadValuesError(
            f"scores of shape {centred.shape} came; expected [prompt, answer], two or more, as many of each"
        )
    return centred * (n / (n - 1))


def null_of(draws: ArrayLike, *, unit: str, level: float = 0.95) -> Estimate:
    """The middle `level` of a number's values under chance, one a permutation, as the estimate of a null.

    Its ends are values that came: the upper one is number ceil((n + 1) * 0.975) of n, so that one more draw is beyond
    it in 2.5 % of studies or fewer, however few draws there are (a quantile between two of 24 is passed in 5.8 %).
    Raises BadValuesError for fewer draws than that takes: 39 for 95 %.
    """
    values = np.sort(finite_values(draws, f"draws of a null in {unit}").ravel())
    n, least = len(values), math.ceil(round((1 + level) / (1 - level), 6))
    if n < least:
        raise BadValuesError(
            f"a null of {n} draws in {unit}; expected {least} or more: fewer cannot show what chance reaches "
            f"in {(1 - level) / 2:.1%}"
        )
    place = math.ceil(round((n + 1) * (1 + level) / 2, 6))
    low, high = values[n - place], values[place - 1]
    mean = min(max(float(values.mean()), float(low)), float(high))
    return Estimate(mean, float(low), float(high), len(values), unit, PERMUTATION, level)


def _unit_means(values: ArrayLike, who: str) -> Floats:
    array = finite_values(values, who)
    if not array.ndim:
        raise BadValuesError(
            f"{who}: the single number {float(array):g}; expected one a {who.rpartition(' ')[2]}, in a row"
        )
    return array if array.ndim == 1 else array.reshape(len(array), -1).mean(axis=1)
