"""Least squares with Huber's loss for many small fits of one joint law at a time, by Levenberg and Marquardt's method.

scipy's `least_squares` solves one problem a call, some 20 milliseconds each; a bootstrap over a grid of models has
thousands. The same steps are taken here for all of them at once. `tests/test_joint_law.py` holds the minima against
scipy's.

A fit has five coefficients: the logarithms of the three terms in the middle of the grid (the floor, what parameters can
still take off, what data can) and the two exponents. With logarithms every term is positive, so that an exponent's sign
says whether the loss falls.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HUBER = 0.01  # of log loss: beyond it, a point pulls no harder. Hoffmann et al. have 0.001, for far less noise
STEEPEST = 3.0  # exponents beyond ±3 are not told from it: the smallest size alone would differ from the others
LEAST = -15.0  # of the logarithm of a term: a floor of e**-15 nats is none
ROUNDS, STILL = 60, 3  # steps at most; so many without gain end a fit


def descend(u: Floats, v: Floats, y: Floats, start: Floats, huber: float = HUBER) -> tuple[Floats, Floats]:
    """Coefficients [fit, 5] and costs [fit] from `start` [fit, 5]; centred logarithms of sizes and losses [fit, point].

    A step that does not lower the cost is not taken, and the next one is shorter.
    """
    at, damping, still = start.copy(), np.full(len(start), 1e-3), np.zeros(len(start), int)
    terms, off = _terms(at, u, v, y)
    cost = _huber(off, huber)
    busy = np.arange(len(at))
    for _ in range(ROUNDS):
        step = _step(u[busy], v[busy], terms[busy], off[busy], damping[busy], huber)
        tried = _within(at[busy] - np.clip(step, -2.0, 2.0))
        new_terms, new_off = _terms(tried, u[busy], v[busy], y[busy])
        new_cost = _huber(new_off, huber)
        better = new_cost < cost[busy]
        gained = new_cost < cost[busy] * (1 - 1e-4)
        damping[busy] *= np.where(better, 0.2, 5.0)
        still[busy] = np.where(gained, 0, still[busy] + 1)
        kept = busy[better]
        at[kept], terms[kept], off[kept], cost[kept] = (
            new[better] for new in (tried, new_terms, new_off, new_cost)
        )  # fmt: skip
        busy = busy[still[busy] < STILL]
        if not len(busy):
            break
    return at, cost


def starts(u: Floats, v: Floats, y: Floats, exponents: Floats) -> Floats:
    """Where to begin [start, 5], for each pair in `exponents` [start, 2], with the best terms for it."""
    loss = np.exp(y)
    out = []
    for a, b in exponents:
        design = np.stack([np.ones_like(u), np.exp(-a * u), np.exp(-b * v)], 1) / loss[:, None]
        shares, *_ = np.linalg.lstsq(design, np.ones_like(u), rcond=1e-6)
        out.append([*np.log(np.maximum(shares, 0.02 * loss.mean())), a, b])
    return _within(np.array(out))


def _terms(at: Floats, u: Floats, v: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The share of each term in the loss [fit, point, term], and foretold less measured log loss [fit, point]."""
    floor, of_size, of_data, a, b = (at[:, i, None] for i in range(5))
    parts = np.stack([np.broadcast_to(floor, u.shape), of_size - a * u, of_data - b * v], -1)
    highest = parts.max(-1, keepdims=True)
    raised = np.exp(parts - highest)
    total = raised.sum(-1, keepdims=True)
    return raised / total, (highest + np.log(total))[..., 0] - y


def _step(u: Floats, v: Floats, terms: Floats, off: Floats, damping: Floats, huber: float) -> Floats:
    slopes = np.concatenate([terms, -u[..., None] * terms[..., 1:2], -v[..., None] * terms[..., 2:3]], -1)
    weighted = slopes * np.minimum(1.0, huber / np.maximum(np.abs(off), 1e-12))[..., None]
    curved = np.swapaxes(weighted, 1, 2) @ slopes
    diagonal = np.einsum("fii->fi", curved)
    damped = curved + (damping[:, None] * diagonal + 1e-10)[:, :, None] * np.eye(5)
    return np.linalg.solve(damped, (weighted * off[..., None]).sum(1)[..., None])[..., 0]


def _huber(off: Floats, huber: float) -> Floats:
    far = np.abs(off)
    return np.where(far <= huber, far**2 / 2, huber * (far - huber / 2)).sum(-1)


def _within(at: Floats) -> Floats:
    """Coefficients inside their bounds: what no grid could tell from the bound itself."""
    return np.concatenate([np.clip(at[:, :3], LEAST, 15.0), np.clip(at[:, 3:], -STEEPEST, STEEPEST)], 1)
