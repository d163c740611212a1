"""k-sparse probing: how many inputs tell where something fires. Readouts of the best 1, 2, 4, … of many columns.

Source: Gurnee et al. 2305.01610. A readout is a line through a few columns that puts rows where the thing fires above
those where it does not. Columns are chosen one by one, each the one that helps most beside those already chosen. What
a readout is worth is told on rows that took part neither in the choice nor in the fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.stats.ranks import auc

Floats = NDArray[np.float64]
RIDGE = 1.0  # beside columns of variance 1: shrinks towards the difference of means, for a few rows that fire


def sparse_readouts(inputs: ArrayLike, fires: ArrayLike, held_out: NDArray[np.bool_], sizes: Sequence[int]) -> Floats:
    """How well the best columns tell where each output fires, on the held-out rows: AUC [size, output].

    `inputs` [row, column], `fires` [row, output] true or false, `held_out` [row]. AUC: how often a row where it fires
    is put above one where it does not; 1 is always, 0.5 is chance. NaN for an output that never or always fires on
    either side. A size beyond the number of columns that vary counts as that number. Raises ValueError for shapes that
    do not match, sizes below 1, and fewer than two rows on either side.
    """
    x, y = np.asarray(inputs, np.float64), np.asarray(fires, np.bool_)
    if not len(x) == len(y) == len(held_out):
        raise ValueError(f"inputs, fires and held_out have {len(x)}, {len(y)} and {len(held_out)} rows")
    if not len(sizes) or min(sizes) < 1:
        raise ValueError(f"sizes {list(sizes)}; expected 1 or more each")
    if min(int(held_out.sum()), int((~held_out).sum())) < 2:
        raise ValueError("two rows or more are needed to fit, and two to judge")
    fitted, judged = x[~held_out], x[held_out]
    centre, spread = fitted.mean(0), fitted.std(0)
    varies = spread > 1e-9 * spread.max()
    fitted, judged = ((part[:, varies] - centre[varies]) / spread[varies] for part in (fitted, judged))
    shares = y[~held_out].mean(0)
    gram = fitted.T @ fitted / len(fitted)
    products = fitted.T @ (y[~held_out] - shares) / len(fitted)
    out = np.full((len(sizes), y.shape[1]), np.nan)
    for j in np.flatnonzero((shares > 0) & (shares < 1)):
        chosen, lower, whitened = _best(gram, products[:, j], min(max(sizes), len(gram)))
        for i, size in enumerate(sizes):
            n = min(size, len(chosen))
            if n:
                weights = np.linalg.solve(lower[:n, :n].T, whitened[:n])
                out[i, j] = auc(judged[:, chosen[:n]] @ weights, y[held_out, j])
    return out


def _best(gram: Floats, products: Floats, most: int) -> tuple[list[int], Floats, Floats]:
    """The columns in the order of choice; of their ridge regression the Cholesky factor and the whitened products.

    The weights of the first n columns are `solve(lower[:n, :n].T, whitened[:n])`. Each step adds a row to the factor:
    nothing is solved again.
    """
    chosen: list[int] = []
    lower, whitened = np.zeros((most, most)), np.zeros(most)
    rows = np.empty((most, len(gram)))  # of the gram, those of the chosen columns, whitened
    left = products.copy()  # what the fit leaves of each column's product
    free = np.ones(len(gram), np.bool_)
    for i in range(most):
        new = int(np.where(free, np.abs(left), -1.0).argmax())
        lower[i, :i] = rows[:i, new]
        lower[i, i] = np.sqrt(gram[new, new] + RIDGE - lower[i, :i] @ lower[i, :i])
        rows[i] = (gram[new] - lower[i, :i] @ rows[:i]) / lower[i, i]
        whitened[i] = left[new] / lower[i, i]
        left -= whitened[i] * rows[i]
        chosen.append(new)
        free[new] = False
    return chosen, lower, whitened
