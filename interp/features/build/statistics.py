"""What the firings of one feature add up to: how often, how strongly, at which tokens. Plain numpy, no model.

Ties go to the token that was read first, and to the smaller number, so that the same firings always give the same
index; what is drawn is drawn by a hash of row and feature, so that neither workers nor batches matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.features.read.layout import FIXED

Ints, Floats = NDArray[np.integer[Any]], NDArray[np.floating[Any]]


@dataclass(frozen=True)
class RowFacts:
    """What statistics ask of the rows. `place`: in the sequence, from 0. `is_later`: a later piece of a word?"""

    token: Ints
    place: Ints
    is_later: NDArray[np.bool_]
    is_sink: NDArray[np.bool_]
    sequence_start: Ints

    @cached_property
    def counted(self) -> int:
        """Rows that are no sinks."""
        return int(np.count_nonzero(~self.is_sink))

    @cached_property
    def token_counts(self) -> Ints:
        """How often each token id is met, sinks left out."""
        return np.bincount(self.token[~self.is_sink])

    @cached_property
    def place_moments(self) -> tuple[float, float]:
        """Mean and variance of `place` over the rows that count."""
        return _moments(self.place, ~self.is_sink)

    @cached_property
    def later_moments(self) -> tuple[float, float]:
        """Mean and variance of `is_later`."""
        return _moments(self.is_later, ~self.is_sink)


def _moments(values: Any, kept: NDArray[np.bool_]) -> tuple[float, float]:
    chosen = values[kept].astype(np.float64)
    return (float(chosen.mean()), float(chosen.var())) if len(chosen) else (0.0, 0.0)


def row_facts(token: Ints, starts: Ints, is_sink: NDArray[np.bool_], vocabulary: Sequence[str]) -> RowFacts:
    """The facts of rows with these token ids, in sequences that begin at `starts`."""
    lengths = np.diff(starts)
    place = np.arange(len(token)) - np.repeat(starts[:-1], lengths)
    begins = np.array([text[:1].isalnum() for text in vocabulary] or [False])
    ends = np.array([text[-1:].isalnum() for text in vocabulary] or [False])
    before = np.concatenate([[False], ends[token[:-1]]])
    return RowFacts(token, place.astype(np.int32), begins[token] & before & (place > 0), is_sink, starts)


def summarise(
    feature: int, rows: Ints, values: Floats, facts: RowFacts, *, top: int, bands: int, examples: int, typical: int
) -> dict[str, Any]:
    """A feature's numbers by the names of `layout.ARRAYS`; `rows` ascend. A feature that never fires has NaN and -1."""
    n, out = len(rows), _never(top, bands, examples, typical)
    if n == 0:
        return out
    order = np.argsort(-values, kind="stable")
    largest, wide = float(values[order[0]]), values.astype(np.float64)
    out["rate"], out["mean"], out["maximum"] = n / facts.counted, float(wide.mean()), largest
    bins = np.minimum((wide / largest * FIXED["bin"]).astype(np.int64), FIXED["bin"] - 1)
    out["histogram"] = np.bincount(bins, minlength=FIXED["bin"])
    out["top_row"][: min(n, top)] = rows[order[:top]]
    drawn = priority(rows, feature)
    for band in range(bands):
        members = order[band * n // bands : (band + 1) * n // bands]
        chosen = np.sort(np.argsort(drawn[members], kind="stable")[:examples])
        out["band_row"][band, : len(chosen)] = rows[members[chosen]]
    ids, which = np.unique(facts.token[rows], return_inverse=True)
    mass = np.bincount(which, wide).astype(np.float64)
    best = np.argsort(-mass, kind="stable")[:typical]
    out["typical_token"][: len(best)], out["typical_share"][: len(best)] = ids[best], mass[best] / mass.sum()
    out |= _explained(ids, mass, wide, facts)
    out["by_position"] = _correlation(wide, facts.place[rows], facts.place_moments, facts.counted)
    out["by_word"] = _correlation(wide, facts.is_later[rows], facts.later_moments, facts.counted)
    return out


def _never(top: int, bands: int, examples: int, typical: int) -> dict[str, Any]:
    return {
        "rate": 0.0,
        "mean": np.nan,
        "maximum": 0.0,
        "histogram": np.zeros(FIXED["bin"], np.int64),
        "top_row": np.full(top, -1),
        "band_row": np.full((bands, examples), -1),
        "typical_token": np.full(typical, -1),
        "typical_share": np.zeros(typical),
        "by_token": np.nan,
        "by_position": np.nan,
        "by_word": np.nan,
    }


def _explained(ids: Ints, mass: Floats, values: Floats, facts: RowFacts) -> dict[str, float]:
    """Adjusted share of the activation's variance over all tokens that lies between token ids (as adjusted R²).

    Adjusted, because thousands of rare tokens would explain any noise.
    """
    n, kinds = facts.counted, int(np.count_nonzero(facts.token_counts))
    total = float(np.square(values).sum() - values.sum() ** 2 / n)
    between = float((np.square(mass) / facts.token_counts[ids]).sum() - values.sum() ** 2 / n)
    if total <= 0 or n <= kinds:
        return {"by_token": np.nan}
    return {"by_token": 1 - ((total - between) / (n - kinds)) / (total / (n - 1))}


def _correlation(values: Floats, other: Any, moments: tuple[float, float], n: int) -> float:
    """Pearson's, of an activation that is zero wherever it does not fire."""
    mean, variance = moments
    spread = np.square(values).sum() / n - (values.sum() / n) ** 2
    if spread <= 0 or variance <= 0:
        return float("nan")
    return float(((values * other).sum() / n - values.sum() / n * mean) / np.sqrt(spread * variance))


def priority(rows: Ints, feature: int) -> NDArray[np.uint64]:
    """A number for each (row, feature) that looks random and is always the same (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(feature + 1) * np.uint64(
            0xD1B54A32D192ED03
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
