"""Statistics of ranks: how often what should be higher is higher."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


def auc(scores: ArrayLike, fires: ArrayLike) -> float:
    """How often a row that fires has the higher score of two, a tie counting half; NaN where all do or none does."""
    y = np.asarray(fires, np.bool_)
    yes, no = int(y.sum()), int((~y).sum())
    if not yes or not no:
        return float("nan")
    return float((rankdata(scores)[y].sum() - yes * (yes + 1) / 2) / yes / no)
