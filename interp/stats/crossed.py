"""Facts asked in several wordings: an interval for other wordings and other facts, and wordings that give nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from interp.stats.estimate import Estimate
from interp.stats.values import BadValuesError, check_bounds, finite_values

Table = NDArray[np.float64]
SILENT = 0.25  # of what the others give: a wording below it gives as good as nothing
SURE = 0.999  # level at which it must lie below them, item by item


def estimate_crossed(
    groups: Sequence[ArrayLike],
    *,
    less: Sequence[ArrayLike] | None = None,
    unit: str,
    over: str,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    exact: bool = False,
    level: float = 0.95,
    nothing: float = 0.0,
    across: str = "way",
) -> Estimate:
    """Mean over groups (relations) of [template, item] matrices, with an interval for other templates and other items.

    Every item is asked in every template, so neither axis alone is the unit. The variance of a group's mean is that of
    its template means over their number plus that of its item means over theirs (Owen 2007, "The pigeonhole
    bootstrap"); it reaches as many errors as the mean of both axes' Student quantiles, weighed by their variances
    (Cochran and Cox 1950). Satterthwaite's degrees of freedom serve for the groups and sides of one axis. Across the
    axes they are too many: the spread of two or three wordings can look small by chance, and they missed up to 6 and
    4 % on one side. Groups are weighed by their items and taken as given: the interval says nothing of further
    relations. `n` counts the items.

    `less` are matrices of the same items in other templates, subtracted: the gap between two directions. With `bounds`
    (the least and greatest possible value), two further items, one at each end, are added to the variance (as Agresti
    and Min 2005 do for pairs), so that values that are all alike are no certainty.

    What the templates at hand do not show is not in the interval: three good wordings do not tell of one in four that
    fails (then it holds the mean in 58 % of studies, with five wordings in 75 %). One that is among them
    (`silent_wordings`; `nothing` is what a guess gives) is named in the estimate's `note`, which goes into a claim's
    caveat: there a row of a matrix is called a `way`, or whatever `across` says.
    Values that are all alike, without bounds, are marked `alike`, and a verdict on them is unclear; not where `exact`
    says that they must be alike by construction.
    Raises BadValuesError for a group of fewer than two templates or items, and for NaN and infinite values.
    """
    first, second = _tables(groups, less, bounds, f"estimate_crossed in {unit} over {over}")
    n = sum(table.shape[1] for table in first)
    mean, of_items, of_wordings = 0.0, [], []  # each part: a variance and its degrees of freedom
    for table, other in zip(first, second, strict=True):
        weight = table.shape[1] / n
        items = table.mean(0) if other is None else table.mean(0) - other.mean(0)
        mean += float(weight * items.mean())
        of_items.append(_variance(items, weight))
        of_wordings += [_variance(side.mean(1), weight) for side in (table, other) if side is not None]
    if np.isfinite(bounds).all():
        of_items.append((2 * ((bounds[1] - bounds[0]) / 2 / (n + 2)) ** 2, n - 1))
    axes = [_summed(of_items), _summed(of_wordings)]
    variance = sum(part for part, _ in axes)
    half, freedom, same = 0.0, None, variance <= 1e-24 * max(1.0, mean**2)
    if not same:
        reach = sum(part * special.stdtrit(df, (1 + level) / 2) for part, df in axes) / variance
        half, freedom = float(reach * np.sqrt(variance)), _freedom(float(reach), [df for _, df in axes], level)
    low, high = min(max(mean - half, bounds[0]), mean), max(min(mean + half, bounds[1]), mean)
    note = "" if exact else _silence(groups, less or (), nothing, across)
    return Estimate(mean, low, high, n, unit, over, level, alike=bool(same) and not exact, df=freedom, note=note)


def _tables(
    groups: Sequence[ArrayLike], less: Sequence[ArrayLike] | None, bounds: tuple[float, float], who: str
) -> tuple[list[Table], list[Table] | list[None]]:
    """Both sides of the gap as tables [template, item]. Raises BadValuesError for what is none, and out of bounds."""
    check_bounds(bounds)
    first = [finite_values(group, f"{who}, table {i}") for i, group in enumerate(groups)]
    second = (
        None if less is None else [finite_values(group, f"{who}, table {i} of less") for i, group in enumerate(less)]
    )
    tables = [*first, *(second or ())]
    if not first or any(table.ndim != 2 or min(table.shape) < 2 for table in tables):
        raise BadValuesError(
            f"{who}: tables of shape {[table.shape for table in tables]}; expected [template, item], two templates and "
            "two items or more in every group"
        )
    if second is not None and [len(table.T) for table in first] != [len(table.T) for table in second]:
        raise BadValuesError(f"{who}: `less` has other groups or items; expected the same items, in other templates")
    means = [table.mean(0) - (0 if second is None else second[i].mean(0)) for i, table in enumerate(first)]
    least, greatest = min(items.min() for items in means), max(items.max() for items in means)
    if not bounds[0] <= least <= greatest <= bounds[1]:
        gap = "; with `less` they are those of the gap, such as (-1, 1) of two shares" if second is not None else ""
        raise BadValuesError(f"{who}: items from {least:g} to {greatest:g} outside their bounds {bounds}{gap}")
    return first, second or [None] * len(first)


def _variance(means: NDArray[np.float64], weight: float) -> tuple[float, float]:
    """Of a group's mean over `means`, and its degrees of freedom."""
    return weight**2 * float(means.var(ddof=1)) / len(means), len(means) - 1


def _summed(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The sum of variances of one kind, with Satterthwaite's degrees of freedom."""
    total = sum(part for part, _ in parts)
    return total, total**2 / sum(part**2 / df for part, df in parts) if total > 0 else min(df for _, df in parts)


def _freedom(reach: float, freedoms: Sequence[float], level: float) -> float:
    """The degrees of freedom whose quantile `reach` is; it is a mean of the quantiles of `freedoms`."""
    low, high = float(min(freedoms)), float(max(freedoms))

    def beyond(df: float) -> float:
        return float(special.stdtrit(df, (1 + level) / 2)) - reach

    if beyond(low) <= 0 or beyond(high) >= 0:
        return low if beyond(low) <= 0 else high
    root: Any = optimize.brentq(beyond, low, high)
    return float(root)


@dataclass(frozen=True)
class SilentWording:
    """A wording that gives as good as nothing where the others give something. `group`, `wording` count from 0."""

    group: int
    wording: int
    mean: float
    others: float


def silent_wordings(groups: Sequence[ArrayLike], *, nothing: float = 0.0) -> list[SilentWording]:
    """Wordings whose mean lies near `nothing` (0, or chance) while that of the others does not: [template, item] each.

    Such a wording is not one more draw of a spread, but a prompt that the model does not take for a question. It makes
    the crossed interval so wide that it tells nothing; had it not been tried, the interval would not know of it. One
    wording is compared with the median of the others' means: less than a quarter of it, and below it item by item
    (Student, 99.9 %). `estimate_crossed` says it in its estimate's note.
    """
    silent: list[SilentWording] = []
    for number, group in enumerate(groups):
        table = finite_values(group, f"silent_wordings, group {number}") - nothing
        if table.ndim != 2 or len(table) < 2 or table.shape[1] < 2:
            raise BadValuesError(f"silent_wordings needs [template, item], two of each; shape {table.shape} came")
        for wording, values in enumerate(table):
            means = np.delete(table, wording, 0).mean(1)
            middle = float(np.median(means))
            nearest = np.delete(table, wording, 0)[int(np.abs(means - middle).argmin())]
            if abs(values.mean()) < SILENT * abs(middle) and _surely_apart(nearest - values):
                silent.append(SilentWording(number, wording, float(values.mean()) + nothing, middle + nothing))
    return silent


def _silence(groups: Sequence[ArrayLike], less: Sequence[ArrayLike], nothing: float, across: str) -> str:
    """What a caveat says of `silent_wordings` in both sides of a gap; empty where there is none."""
    named = []
    for side, what in ((groups, ""), (less, " of what is subtracted")):
        several = f"{what} in group {{}}" if len(side) > 1 else what
        for one in silent_wordings(side, nothing=nothing):
            where = f"{across} {one.wording + 1}{several.format(one.group + 1)}"
            named.append(f"{where} gives {one.mean:.2g}, the others {one.others:.2g}")
    if not named:
        return ""
    asked = sum(len(np.asarray(group)) for group in (*groups, *less))
    listed = "; ".join(named[:3]) + (f"; and {len(named) - 3} more" if len(named) > 3 else "")
    return (
        f"{len(named)} of {asked} {across}s {'is' if len(named) == 1 else 'are'} silent ({listed}): the mean is of "
        f"{across}s that work and of some that do not, and says nothing of either."
    )


def _surely_apart(differences: np.ndarray) -> bool:
    n, spread = len(differences), float(differences.std(ddof=1))
    if spread == 0:
        return bool(differences.mean() != 0)
    return bool(abs(differences.mean()) > special.stdtrit(n - 1, (1 + SURE) / 2) * spread / np.sqrt(n))
