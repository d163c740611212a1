"""The largest of many numbers, in an order that is always the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints, Floats = NDArray[np.integer[Any]], NDArray[np.floating[Any]]


def first_by(scores: Floats, n: int) -> Ints:
    """Columns of the `n` largest of every row of `scores`, largest first, of equals the smaller column; [row, n].

    Fewer columns than `n`, or fewer numbers than `n` above -inf, leave -1.
    """
    found = np.full((len(scores), n), -1, np.int64)
    n = min(n, scores.shape[1])
    if n == 0:
        return found
    least = np.partition(scores, scores.shape[1] - n, axis=1)[:, scores.shape[1] - n]
    for i, row in enumerate(scores):
        candidates = np.flatnonzero((row >= least[i]) & (row > -np.inf))
        best = candidates[np.argsort(-row[candidates], kind="stable")[:n]]
        found[i, : len(best)] = best
    return found
