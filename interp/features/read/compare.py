"""Feature matching between two dictionaries: which features of the other fire where one of the first does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interp.errors import UserError
from interp.features.read.feature import Neighbour
from interp.features.read.index import Index
from interp.features.read.ranking import first_by


def check_same_text(ours: Index, other: Index) -> None:
    """Raise UserError unless both indexes are of the same tokens."""
    if ours.sizes["row"] != other.sizes["row"] or not np.array_equal(ours["token"], other["token"]):
        raise UserError(
            f"{other.folder} is of another text than {ours.folder} ({other.sizes['row']:,} and {ours.sizes['row']:,} "
            "tokens); build both from the same corpus, with the same --context and --max-tokens"
        )


def match_features(ours: Index, feature: int, other: Index, n: int = 10) -> list[Neighbour]:
    """The `n` features of `other` whose firing correlates most (phi) with that of our `feature`, on the same tokens.

    Raises UserError for indexes of other texts. The first call sorts the other's firings by row: some seconds a million
    tokens.
    """
    check_same_text(ours, other)
    rows, _ = ours.firings(ours.check(feature))
    both = np.bincount(_at(other, rows), minlength=len(other)).astype(np.float64)
    total, a = ours.tokens_counted, float(len(rows))
    b = np.diff(other["firing_start"]).astype(np.float64)
    spread = a * (total - a) * b * (total - b)
    phi = np.where(both > 0, (total * both - a * b) / np.sqrt(np.where(spread > 0, spread, 1.0)), -np.inf)
    best = [int(one) for one in first_by(phi[None], n)[0] if one >= 0]
    return [Neighbour(one, float(phi[one]), int(both[one])) for one in best]


def _at(index: Index, rows: NDArray[np.int32]) -> NDArray[np.int64]:
    """The features that fire at these rows, each as often as it does."""
    starts, features = index.by_row
    lengths = starts[rows + 1] - starts[rows]
    inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return features[np.repeat(starts[rows], lengths) + inside].astype(np.int64)
