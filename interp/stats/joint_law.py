"""The joint law of parameters and data: L(N, D) = E + A / N^a + B / D^b (Hoffmann et al. 2203.15556, approach 3).

One law for all sizes N and amounts of data D, instead of a line for each. E is the loss that nothing beats; what is
above it falls with more parameters and with more data. Fitted to log losses by Huber's loss from many starts, for there
are local minima (2404.10102 shows what becomes of a fit that stops early).

An exponent is told badly by few points: the floor can be raised and the exponent with it, for nearly the same losses.
So the intervals come from a bootstrap over grid points (and seeds within them), each fitted again from several starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.stats.estimate import Estimate
from interp.stats.estimators import estimate_mean
from interp.stats.intervals import Interval, expanded_percentile
from interp.stats.joint_fit import STEEPEST, descend, starts
from interp.stats.power_law import UNIT
from interp.stats.values import BadValuesError, finite_values

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
LEVELS, POINTS = 3, 7  # different sizes and amounts of data, and points: two amounts bend nothing, five coefficients
MANY = np.array(list(product((-0.3, 0.05, 0.2, 0.5, 1.2), repeat=2)))  # exponents to begin with
FEW = np.array([(0.15, 0.15), (0.6, 0.6), (-0.3, 0.3), (0.3, -0.3)])


@dataclass(frozen=True)
class JointLaw:
    """`floor` + `of_parameters` / (N / `size`)^`a` + `of_data` / (D / `amount`)^`b`, in nats.

    `size` and `amount` are the middle of the grid (geometric means), `of_parameters` and `of_data` what the terms are
    there: A and B at N = D = 1 would be numbers that no model was near.
    """

    floor: float
    of_parameters: float
    of_data: float
    a: float
    b: float
    size: float
    amount: float

    def predict(self, parameters: ArrayLike, data: ArrayLike) -> Floats:
        """The loss that it foretells for models of so many `parameters`, trained on so much `data`."""
        n, d = np.asarray(parameters, np.float64), np.asarray(data, np.float64)
        return (
            self.floor + self.of_parameters * (n / self.size) ** -self.a + self.of_data * (d / self.amount) ** -self.b
        )

    @property
    def best_size(self) -> float | None:
        """The exponent of compute in the best number of parameters, b / (a + b); None where more of either is no gain.

        For compute that grows as N times D, as 6 N D does.
        """
        return self.b / (self.a + self.b) if min(self.a, self.b) > 0 else None


class JointEstimates(NamedTuple):
    """A joint law and its exponents with intervals. `best_size`: None where the law itself has no best size."""

    law: JointLaw
    a: Estimate
    b: Estimate
    best_size: Estimate | None


def fit_joint_law(parameters: ArrayLike, data: ArrayLike, loss: ArrayLike) -> JointLaw:
    """Fit `loss` [point] (or [point, seed], averaged first) against `parameters` and `data` [point].

    Raises BadValuesError for a grid that decides no such law: fewer than three sizes, three amounts of data or seven
    points, one of the two in step with the other, losses that are all alike; and for what is no positive number.
    """
    grid = _Grid.of(parameters, data, loss)
    return grid.law(grid.best(MANY))


def estimate_joint_law(
    parameters: ArrayLike, data: ArrayLike, loss: ArrayLike, *, over: str = "point", n_boot: int = 200, seed: int = 0
) -> JointEstimates:
    """The joint law, its exponents and the exponent of the best size with 95 % intervals.

    Each of `n_boot` draws takes as many grid points, with replacement, and as many seeds at each of them: a point is
    off the law by more than its seeds tell (its learning rate, and that the law is not quite right). Draws that decide
    no law are drawn again. Where a draw has no best size it excludes nothing: it counts at both ends. Raises what
    `fit_joint_law` does.
    """
    grid = _Grid.of(parameters, data, loss)
    best = grid.best(MANY)
    drawn = grid.resampled(best, n_boot, np.random.default_rng(seed))
    n, law = len(grid.y), grid.law(best)
    a, b = (Estimate(*_interval(best[i], drawn[:, i], n), n, UNIT, over) for i in (3, 4))
    if law.best_size is None:
        return JointEstimates(law, a, b, None)
    has_one = (drawn[:, 3:] > 0).all(1)
    share = drawn[:, 4] / np.where(has_one, drawn[:, 3:].sum(1), 1.0)
    low, high = (expanded_percentile(np.r_[law.best_size, np.where(has_one, share, end)], n)[1 + end] for end in (0, 1))
    return JointEstimates(law, a, b, Estimate(law.best_size, max(low, 0.0), min(high, 1.0), n, UNIT, over))


def joint_law_by_chance(
    parameters: ArrayLike, data: ArrayLike, loss: ArrayLike, *, n_deals: int = 100, n_boot: int = 40, seed: int = 0
) -> Estimate:
    """What share of exponents is above zero, interval and all, when the losses are dealt to the points at random?

    The negative control of `estimate_joint_law`: nothing falls in a dealt grid, so that the share is about 0.025 where
    the intervals hold what they promise. `loss` [point, seed]; a point's seeds stay together; each deal has a bootstrap
    of its own. Raises what `fit_joint_law` does.
    """
    grid, rng = _Grid.of(parameters, data, loss), np.random.default_rng(seed)
    deals = [grid.dealt(rng) for _ in range(n_deals)]
    problems = [deal.starting(FEW) for deal in deals]
    best = _least(problems)
    # an interval holds its middle: where neither exponent is above zero, neither interval is
    asked = [i for i in range(n_deals) if best[i][0, 3:].max() > 0]
    drawn = _least([deals[i].drawing(best[i][0], n_boot, rng, FEW[2:]) for i in asked])
    above = np.zeros((n_deals, 2))
    for i, draws in zip(asked, drawn, strict=True):
        above[i] = [_interval(best[i][0, k], draws[:, k], len(grid.y)).low > 0 for k in (3, 4)]
    return estimate_mean(above, unit="share of exponents", over="deal", bounds=(0, 1), seed=seed)


class _Problem(NamedTuple):
    """Fits of one grid: u, v, y and first coefficients [fit, …], as many neighbouring ones for each draw."""

    u: Floats
    v: Floats
    y: Floats
    start: Floats
    draws: int


def _least(problems: list[_Problem]) -> list[Floats]:
    """Of each problem the coefficients with the least cost [draw, 5]; all are fitted at once."""
    if not problems:
        return []
    u, v, y, start = (np.concatenate([getattr(one, name) for one in problems]) for name in ("u", "v", "y", "start"))
    at, cost = descend(u, v, y, start)
    ends = np.cumsum([len(one.u) for one in problems])[:-1]
    out = []
    for one, ats, costs in zip(problems, np.split(at, ends), np.split(cost, ends), strict=True):
        least = costs.reshape(one.draws, -1).argmin(1)
        out.append(ats.reshape(one.draws, -1, 5)[np.arange(one.draws), least])
    return out


def _interval(at: float, drawn: Floats, n: int) -> Interval:
    """Of an exponent; nothing lies beyond what a fit may reach."""
    mean, low, high = expanded_percentile(np.r_[at, drawn], n)
    return Interval(mean, max(low, -STEEPEST), min(high, STEEPEST))


class _Grid(NamedTuple):
    """Points of a grid: centred log sizes, centred log amounts, losses [point, seed], log mean losses; the middle."""

    u: Floats
    v: Floats
    losses: Floats
    y: Floats
    size: float
    amount: float

    @classmethod
    def of(cls, parameters: ArrayLike, data: ArrayLike, loss: ArrayLike) -> _Grid:
        n, d = finite_values(parameters, "sizes of a joint law"), finite_values(data, "amounts of data of a joint law")
        table = finite_values(loss, "losses of a joint law")
        table = table[:, None] if table.ndim == 1 else table
        if n.ndim != 1 or n.shape != d.shape or table.ndim != 2 or len(table) != len(n):
            raise BadValuesError(
                f"a joint law needs a size, an amount of data and a row of losses for each point; shapes {n.shape}, "
                f"{d.shape} and {table.shape} came"
            )
        if min(n.min(), d.min(), table.min()) <= 0:
            raise BadValuesError("a joint law needs positive sizes, amounts of data and losses; 0 or less came")
        u, v = np.log(n), np.log(d)
        levels = len(np.unique(n)), len(np.unique(d))
        if min(levels) < LEVELS or len(n) < POINTS:
            raise BadValuesError(
                f"a joint law needs {LEVELS} sizes, {LEVELS} amounts of data and {POINTS} points or more; {levels[0]} "
                f"sizes, {levels[1]} amounts and {len(n)} points came"
            )
        if _in_step(u, v):
            raise BadValuesError(
                "a joint law needs sizes and amounts of data that vary apart; one goes in step with the other here"
            )
        y = np.log(table.mean(1))
        if np.ptp(y) < 1e-9:
            raise BadValuesError(f"a joint law needs losses that differ; all {len(y)} are {np.exp(y[0]):g}")
        return cls(u - u.mean(), v - v.mean(), table, y, float(np.exp(u.mean())), float(np.exp(v.mean())))

    def best(self, exponents: Floats) -> Floats:
        """The coefficients with the least cost, from a start for each pair of exponents."""
        return _least([self.starting(exponents)])[0][0]

    def starting(self, exponents: Floats) -> _Problem:
        """The fits that `best` takes the best of."""
        first = starts(self.u, self.v, self.y, exponents)
        u, v, y = (np.tile(one, (len(first), 1)) for one in (self.u, self.v, self.y))
        return _Problem(u, v, y, first, 1)

    def law(self, at: Floats) -> JointLaw:
        floor, of_parameters, of_data = np.exp(at[:3]).tolist()
        return JointLaw(floor, of_parameters, of_data, float(at[3]), float(at[4]), self.size, self.amount)

    def dealt(self, rng: np.random.Generator) -> _Grid:
        """The same losses at other points."""
        order = rng.permutation(len(self.y))
        return self._replace(losses=self.losses[order], y=self.y[order])

    def resampled(self, best: Floats, n_boot: int, rng: np.random.Generator, exponents: Floats = FEW) -> Floats:
        """Coefficients [draw, 5] for points and seeds drawn with replacement, from `best` and other starts."""
        return _least([self.drawing(best, n_boot, rng, exponents)])[0]

    def drawing(self, best: Floats, n_boot: int, rng: np.random.Generator, exponents: Floats) -> _Problem:
        """The fits that `resampled` takes the best of, draw by draw."""
        chosen = self._draws(n_boot, rng)
        seeds = rng.integers(0, self.losses.shape[1], (*chosen.shape, self.losses.shape[1]))
        means = np.log(np.take_along_axis(self.losses[chosen], seeds, 2).mean(2))
        first = np.concatenate([best[None], starts(self.u, self.v, self.y, exponents)])
        u, v, y = (np.repeat(one, len(first), 0) for one in (self.u[chosen], self.v[chosen], means))
        return _Problem(u, v, y, np.tile(first, (n_boot, 1)), n_boot)

    def _draws(self, n_boot: int, rng: np.random.Generator) -> Counts:
        """Points [draw, point], each draw one that decides a law."""
        out: list[Counts] = []
        while len(out) < n_boot:
            one = rng.integers(0, len(self.y), len(self.y))
            u, v = self.u[one], self.v[one]
            if min(len(np.unique(u)), len(np.unique(v))) >= LEVELS and not _in_step(u, v):
                out.append(one)
        return np.array(out)


def _in_step(u: Floats, v: Floats) -> bool:
    """Do all points lie on one line of log size against log amount?"""
    return bool(np.linalg.matrix_rank(np.stack([np.ones_like(u), u, v], 1), tol=1e-6) < 3)
