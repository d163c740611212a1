"""Power laws: whether a loss falls as a power of size. Lines in double logarithms, with intervals and signs of a bend.

A power law L = (c / x) ** a is a line of slope -a in log L against log x (Kaplan et al. 2001.08361). With a floor that
no size beats, L = E + (c / x) ** a (Hoffmann et al. 2203.15556), the line bends. Few points over a narrow range fit
both, and their exponents differ: so both are given, with how much the line bends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from interp.stats.estimate import Estimate
from interp.stats.values import BadValuesError, finite_values

Floats = NDArray[np.float64]
UNIT = "exponent"


@dataclass(frozen=True)
class PowerLaw:
    """`exponent`: minus the slope of the line, its interval over `n` points. `scale`: log L at log x = 0.

    `bend`: the coefficient of (log x)² where it is added, the x centred; 0 is a line.
    """

    exponent: Estimate
    scale: float
    bend: Estimate

    def predict(self, x: ArrayLike) -> Floats:
        """The line's loss at sizes `x`."""
        return np.exp(self.scale - self.exponent.mean * np.log(np.asarray(x, np.float64)))


def fit_power_law(x: ArrayLike, loss: ArrayLike, *, over: str = "size") -> PowerLaw:
    """Fit `loss` [point] (or [point, seed], averaged first) against `x` [point], both positive.

    Least squares on logarithms; Student's intervals with the points as units. Raises BadValuesError for fewer than four
    different sizes (three points have no spread about a bent line), and for NaN and infinite values.
    """
    sizes, means = finite_values(x, "sizes of a power law"), finite_values(loss, "losses of a power law")
    means = means if means.ndim == 1 else means.mean(axis=1)
    different = len(set(sizes.tolist()))
    if different < 4 or sizes.min() <= 0 or means.min() <= 0:
        raise BadValuesError(f"a power law needs four sizes or more, and positive numbers; {different} came")
    u, v = np.log(sizes), np.log(means)
    line = _regress(np.stack([np.ones_like(u), u], 1), v)
    bent = _regress(np.stack([np.ones_like(u), u, (u - u.mean()) ** 2], 1), v)
    n = len(sizes)
    slope = _estimate(-line[0][1], line[1][1], n - 2, n, over)
    return PowerLaw(slope, float(line[0][0]), _estimate(bent[0][2], bent[1][2], n - 3, n, over))


def exponent_gap(x: ArrayLike, other_x: ArrayLike, loss: ArrayLike, *, over: str = "size") -> Estimate:
    """The exponent of `loss` [point] against `x` less that against `other_x`: the same points, counted two ways.

    Both slopes are weighted sums of the same logarithms, and so is their difference: an error in a loss moves both, and
    only what it moves them apart is in the interval. The scatter is that about the worse of both lines, n - 2 degrees
    of freedom. Raises what `fit_power_law` does.
    """
    both = [fit_power_law(sizes, loss, over=over) for sizes in (x, other_x)]
    v = np.log(finite_values(loss, "losses of a power law"))
    n, weights, scatter = len(v), [], 0.0
    for sizes in (x, other_x):
        u = np.log(np.asarray(sizes, np.float64))
        off = u - u.mean()
        weights.append(off / (off @ off))
        left = v - v.mean() - weights[-1] @ v * off
        scatter = max(scatter, float(left @ left) / (n - 2))
    apart = weights[0] - weights[1]
    return _estimate(both[0].exponent.mean - both[1].exponent.mean, (scatter * apart @ apart) ** 0.5, n - 2, n, over)


def crossfitted_frontier(cost: ArrayLike, loss: ArrayLike, *, over: str = "point") -> PowerLaw | None:
    """The power law of a compute frontier, fitted to other seeds than those that chose its points; None where too few.

    `cost` [point], `loss` [point, seed], two seeds or more. A frontier is chosen so that it falls: fitted to the losses
    that chose it, a law is "found" in half of the cases where there is none. Here every other seed chooses the points
    that nothing cheaper beats and the others are fitted, then the other way round. The exponent is the mean of both,
    and its interval as wide as the two are on average, for they hang together. None where either half leaves fewer
    than four costs.
    """
    costs = finite_values(cost, "costs of a frontier")
    table = finite_values(loss, "losses of a frontier")
    if table.ndim != 2 or table.shape[1] < 2 or len(table) != len(costs):
        raise BadValuesError(
            f"a frontier needs losses [point, seed] of two seeds or more, one row a cost; shape {table.shape} came for "
            f"{len(costs)} costs"
        )
    halves = (table[:, ::2].mean(1), table[:, 1::2].mean(1))
    fits = []
    for chooser, fitted in (halves, halves[::-1]):
        kept = lower_envelope(costs, chooser)
        if len(kept) < 4:
            return None
        fits.append(fit_power_law(costs[kept], fitted[kept], over=over))
    exponent, bend = _mean_estimate([f.exponent for f in fits]), _mean_estimate([f.bend for f in fits])
    return PowerLaw(exponent, float(np.mean([f.scale for f in fits])), bend)


def foretold_miss(x: ArrayLike, loss: ArrayLike, *, unit: str, over: str = "size") -> Estimate:
    """The loss at the last size as the line through the others foretells it, less the loss measured there.

    The interval is that of a prediction: it holds the line's own error and the scatter that one more point has about
    it. Raises BadValuesError for fewer than four points: three others are the fewest that scatter about a line.
    """
    sizes, losses = finite_values(x, "sizes of a power law"), finite_values(loss, "losses of a power law")
    if len(sizes) < 4 or len(set(sizes[:-1].tolist())) < 2 or min(sizes.min(), losses.min()) <= 0:
        raise BadValuesError(f"to foretell the last of some sizes takes four or more, all positive; {len(sizes)} came")
    u, v = np.log(sizes), np.log(losses)
    (start, slope), _ = _regress(np.stack([np.ones(len(u) - 1), u[:-1]], 1), v[:-1])
    scatter = v[:-1] - start - slope * u[:-1]
    n, off = len(u) - 1, u[:-1] - u[:-1].mean()
    error = np.sqrt(scatter @ scatter / (n - 2) * (1 + 1 / n + (u[-1] - u[:-1].mean()) ** 2 / (off @ off)))
    half = float(special.stdtrit(n - 2, 0.975) * error)
    middle = float(start + slope * u[-1])
    low, mean, high = (float(np.exp(min(middle + d, 200.0)) - losses[-1]) for d in (-half, 0.0, half))
    return Estimate(mean, low, high, n, unit, over, df=n - 2)


def fit_floor(x: ArrayLike, loss: ArrayLike) -> tuple[float, float] | None:
    """(E, a) of L = E + (c / x) ** a, by least squares on log L; None where the points decide no floor."""
    sizes, means = np.asarray(x, np.float64), np.asarray(loss, np.float64)

    def off(p: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.nan_to_num(np.log(np.exp(p[0]) + np.exp(p[1] - p[2] * np.log(sizes))) - np.log(means), posinf=1e3)

    best = None
    for share in (0.2, 0.5, 0.8):
        for a in (0.1, 0.3, 0.6):
            floor = share * means.min()
            start = (np.log(floor), np.log(means[0] - floor) + a * np.log(sizes[0]), a)
            found = optimize.least_squares(off, start, method="lm", max_nfev=2000)
            best = found if best is None or found.cost < best.cost else best
    assert best is not None
    floor, a = float(np.exp(best.x[0])), float(best.x[2])
    return (floor, a) if 0.01 * means.min() < floor < 0.99 * means.min() and 0 < a < 5 else None


def lower_envelope(cost: ArrayLike, loss: ArrayLike) -> NDArray[np.int64]:
    """Indices of the points that no cheaper or equally cheap point beats, the cheapest first."""
    c, v = np.asarray(cost, np.float64), np.asarray(loss, np.float64)
    kept: list[int] = []
    for i in np.lexsort((v, c)):
        if not kept or v[i] < v[kept[-1]]:
            kept.append(int(i))
    return np.array(kept)


def _regress(design: Floats, v: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
    """Coefficients and their standard errors."""
    found, *_ = np.linalg.lstsq(design, v, rcond=None)
    left = v - design @ found
    freedom = len(v) - design.shape[1]
    variance = float(left @ left) / freedom if freedom else 0.0
    return found, np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * variance)


def _estimate(mean: float, error: float, freedom: int, n: int, over: str) -> Estimate:
    freedom = max(1, freedom)
    half = float(special.stdtrit(freedom, 0.975) * error)
    return Estimate(float(mean), float(mean) - half, float(mean) + half, n, UNIT, over, df=freedom)


def _mean_estimate(both: list[Estimate]) -> Estimate:
    """The mean of two estimates of one number from the same points: no narrower than they are."""
    mean, half = np.mean([e.mean for e in both]), np.mean([e.high - e.mean for e in both])
    n, df = min(e.n for e in both), min(e.freedom for e in both)
    return Estimate(float(mean), float(mean - half), float(mean + half), n, UNIT, both[0].over, df=df)
