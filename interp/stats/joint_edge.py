"""The edge of a grid, foretold: its largest sizes and largest amounts of data, by laws fitted to everything smaller."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.stats.joint_law import LEVELS, fit_joint_law
from interp.stats.values import BadValuesError, finite_values

Floats = NDArray[np.float64]
EXPONENTS = np.linspace(-1, 3, 81)  # tried for the laws of one variable


class EdgeMisses(NamedTuple):
    """How far off each law is at the held-out points, absolute, each [held-out point].

    `joint`: the joint law. `multiplied`: powers of parameters and data multiplied, a plane in logarithms without a
    floor. `alone`: by variable (parameters, data, compute), the law of this one, with a floor where the points decide
    one. `nearest`: no law, the loss of the nearest point that was not held out.
    """

    joint: Floats
    multiplied: Floats
    alone: dict[str, Floats]
    nearest: Floats

    @property
    def best_alone(self) -> str:
        """The variable whose law misses least: known only afterwards, so that it is the hardest one to beat."""
        return min(self.alone, key=lambda name: float(self.alone[name].mean()))


def edge_misses(parameters: ArrayLike, data: ArrayLike, loss: ArrayLike) -> EdgeMisses:
    """What laws foretell for the points of the largest size or the largest amount of data, fitted to all others.

    In the unit of `loss` [point] or [point, seed], in the order of the points. Compute goes as size times amount.
    Raises BadValuesError for fewer than four sizes or four amounts of data, and what `fit_joint_law` does.
    """
    n, d = finite_values(parameters, "sizes of a joint law"), finite_values(data, "amounts of data of a joint law")
    table = finite_values(loss, "losses of a joint law")
    levels = len(np.unique(n)), len(np.unique(d))
    if min(levels) <= LEVELS:
        raise BadValuesError(
            f"to foretell the edge of a grid takes {LEVELS + 1} sizes and {LEVELS + 1} amounts of data; {levels[0]} "
            f"and {levels[1]} came"
        )
    if not len(n) == len(d) == len(table):
        raise BadValuesError(
            f"to foretell the edge of a grid takes a size, an amount and a loss a point; {len(n)}, {len(d)} and "
            f"{len(table)} came"
        )
    losses = table if table.ndim == 1 else table.mean(1)
    edge = (n == n.max()) | (d == d.max())
    inner = ~edge
    joint = fit_joint_law(n[inner], d[inner], losses[inner]).predict(n[edge], d[edge])
    multiplied = _plane([n, d], losses, inner)[edge]
    alone = {name: _by_one(x, losses, inner)[edge] for name, x in (("parameters", n), ("data", d), ("compute", n * d))}
    nearest = _nearest(np.stack([n, d], 1), losses, inner, edge)

    def off(foretold: Floats) -> Floats:
        return np.abs(foretold - losses[edge])

    return EdgeMisses(off(joint), off(multiplied), {name: off(one) for name, one in alone.items()}, off(nearest))


def _by_one(x: Floats, losses: Floats, inner: NDArray[np.bool_]) -> Floats:
    """The law of one variable with a floor, E + A / x^a, or a line in logarithms where no floor above 0 fits better."""
    best = _plane([x], losses, inner)
    least = _off(best, losses, inner)
    middle = np.exp(np.log(x[inner]).mean())
    for exponent in EXPONENTS:
        design = np.stack([np.ones_like(x), (x / middle) ** -exponent], 1)
        terms, *_ = np.linalg.lstsq(design[inner] / losses[inner, None], np.ones(inner.sum()), rcond=None)
        if terms.min() > 0 and (off := _off(design @ terms, losses, inner)) < least:
            best, least = design @ terms, off
    return best


def _off(foretold: Floats, losses: Floats, inner: NDArray[np.bool_]) -> float:
    return float((np.log(foretold / losses)[inner] ** 2).sum())


def _plane(variables: list[Floats], losses: Floats, inner: NDArray[np.bool_]) -> Floats:
    """Powers of the variables, multiplied: a line, or a plane, in logarithms."""
    design = np.stack([np.ones_like(losses), *map(np.log, variables)], 1)
    fitted, *_ = np.linalg.lstsq(design[inner], np.log(losses[inner]), rcond=None)
    return np.exp(design @ fitted)


def _nearest(places: Floats, losses: Floats, inner: NDArray[np.bool_], edge: NDArray[np.bool_]) -> Floats:
    """The loss of the inner point that is nearest in logarithms, each axis as long as the grid."""
    logs = np.log(places)
    logs = logs / np.ptp(logs, axis=0)
    away = ((logs[edge][:, None] - logs[inner]) ** 2).sum(-1)
    return losses[inner][away.argmin(1)]
