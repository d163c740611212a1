"""Which features fire together: of each feature the partners by the correlation (phi) of the two firings.

A feature's partners are counted in the rows on which it fires, and in no others. So every firing is looked at once for
each firing beside it, however many features there are; a table of all pairs [d_sae, d_sae] is never made. Features go
by their rank, the rarest first: most partners are met once, and those that are not rare enough to count are then the
end of a sorted list.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interp.activations.files import new_file, write_at
from interp.activations.tensor_file import lay_out_file, map_tensors, note_of
from interp.features.build.firings import Firings
from interp.features.read.ranking import first_by

FILE = "by-row.safetensors"
SORTED_BELOW = 0.5  # of d_sae firings: so few are counted faster by sorting them than in a counter for every feature
ROUNDING = 1e-9  # of a score and of a feature's firings: many times what its few operations lose

Ints, Floats = NDArray[np.integer[Any]], NDArray[np.float64]


def write_by_row(folder: Path, firings: Firings, plan: str) -> None:
    """Write the firings of all pieces to one file, row by row, as ranks of features; memory holds one piece."""
    rows, total = len(firings.is_sink), int(firings.counts.sum())
    rank = np.empty(firings.d_sae, np.int32)
    rank[rarest_first(firings.counts)] = np.arange(firings.d_sae)
    note = {"note": json.dumps({"plan": plan})}
    layout = lay_out_file({"start": (torch.int64, (rows + 1,)), "rank": (torch.int32, (total,))}, note)
    with new_file(folder / FILE, layout.size) as file:
        write_at(file.descriptor, memoryview(layout.header), 0)
        start = np.zeros(rows + 1, np.int64)
        row = firing = 0
        for lengths, feature in firings.rows_of_pieces():
            start[row + 1 : row + 1 + len(lengths)] = lengths
            write_at(file.descriptor, rank[feature].data.cast("B"), layout.fields["rank"].start + 4 * firing)
            row, firing = row + len(lengths), firing + len(feature)
        np.cumsum(start, out=start)
        write_at(file.descriptor, start.data.cast("B"), layout.fields["start"].start)


def has_by_row(folder: Path, plan: str) -> bool:
    """Is the file there, and of this plan?"""
    return note_of(folder / FILE) == {"plan": plan}


def open_by_row(folder: Path, counts: NDArray[np.int64]) -> ByRow:
    """Map the file."""
    tensors = map_tensors(folder / FILE)
    return ByRow(tensors["start"].numpy(), tensors["rank"].numpy(), counts)


def rarest_first(counts: NDArray[np.int64]) -> Ints:
    """The features in the order of their ranks."""
    return np.argsort(counts, kind="stable")


@dataclass(frozen=True)
class ByRow:
    """All firings in the order of rows: those of row r are of `rank[start[r] : start[r + 1]]`. `counts` [feature]."""

    start: NDArray[np.int64]
    rank: NDArray[np.int32]
    counts: NDArray[np.int64]

    @cached_property
    def feature(self) -> Ints:
        """Of each rank its feature."""
        return rarest_first(self.counts)

    @cached_property
    def width(self) -> int:
        """The firings of every row that has any, where all have as many (a top k); else 0."""
        lengths = np.diff(self.start)
        width = int(lengths.max(initial=0))
        return width if bool(((lengths == width) | (lengths == 0)).all()) else 0

    def beside(self, rows: Ints) -> NDArray[np.int32]:
        """Every firing on these rows, as ranks."""
        first = self.start[rows]
        if self.width:
            return self.rank.reshape(-1, self.width)[first // self.width].ravel()
        lengths = self.start[rows + np.int64(1)] - first
        ends = np.cumsum(lengths)
        if not len(ends):
            return self.rank[:0]
        return self.rank[np.arange(ends[-1]) + np.repeat(first - (ends - lengths), lengths)]


def find_partners(run: range, starts: Ints, rows: Ints, by_row: ByRow, n: int, total: int) -> dict[str, NDArray[Any]]:
    """The `n` features that fire most with each of a run, which fires on `rows[starts[i] : starts[i + 1]]`.

    `total`: how many rows count.
    """
    out = {
        "with_feature": np.full((len(run), n), -1, np.int32),
        "with_count": np.zeros((len(run), n), np.int32),
        "with_phi": np.full((len(run), n), np.nan, np.float32),
    }
    score = _Score.of(by_row.counts[by_row.feature], total)
    for i, feature in enumerate(run):
        ranks, together = _count(by_row.beside(rows[starts[i] : starts[i + 1]]), len(by_row.counts))
        count = int(by_row.counts[feature])
        near = score.first(ranks, together, count, n + 1)  # itself is among them
        partners, together = by_row.feature[ranks[near]], together[near]
        order = np.argsort(partners)
        order = order[partners[order] != feature]
        partners, together = partners[order], together[order]
        phi = _phi(together, count, by_row.counts[partners], total)
        best = first_by(phi[None], n)[0]
        best = best[best >= 0]
        cells = i, slice(0, len(best))
        out["with_feature"][cells], out["with_count"][cells] = partners[best], together[best]
        out["with_phi"][cells] = phi[best]
    return out


@dataclass(frozen=True)
class _Score:
    """What orders a feature's partners as phi does, at less cost: `together * once - count * often`, by rank."""

    once: Floats
    often: Floats

    @classmethod
    def of(cls, counts: Ints, total: int) -> _Score:
        """`counts` by rank."""
        b = counts.astype(np.float64)
        spread = np.sqrt(np.maximum(b * (total - b), 1.0))
        return cls(total / spread, b / spread)

    def first(self, ranks: Ints, together: Ints, count: int, n: int) -> Ints:
        """Which partners may be among the first `n`, and all that rounding could put there."""
        if len(ranks) <= n:
            return np.arange(len(ranks))
        several = np.flatnonzero(together > 1)
        scores = self._of(ranks[several], together[several], count)
        if len(several) <= n:
            several, scores = np.arange(len(ranks)), self._of(ranks, together, count)
        least = float(np.partition(scores, len(scores) - n)[len(scores) - n])
        least -= ROUNDING * (abs(least) + count)
        near = several[scores >= least]
        if len(several) == len(ranks):
            return near
        # of those met once the score falls with the rank
        rare = bisect_left(ranks, True, key=lambda rank: bool(self.once[rank] - count * self.often[rank] < least))
        return np.concatenate([near, np.flatnonzero(together[:rare] == 1)])

    def _of(self, ranks: Ints, together: Ints, count: int) -> Floats:
        return together * self.once[ranks] - count * self.often[ranks]


def _count(ranks: NDArray[np.int32], d_sae: int) -> tuple[Ints, Ints]:
    """Which ranks there are, ascending, and how often each."""
    if len(ranks) < SORTED_BELOW * d_sae:
        ordered = np.sort(ranks)
        last = np.empty(len(ordered), bool)
        np.not_equal(ordered[1:], ordered[:-1], out=last[:-1])
        last[-1:] = True
        ends = last.nonzero()[0]
        together = ends + 1
        together[1:] -= together[:-1].copy()
        return ordered[ends], together
    counts = np.bincount(ranks, minlength=d_sae)
    there = np.flatnonzero(counts)
    return there, counts[there]


def _phi(together: Ints, count: int, partners: Ints, n: int) -> Floats:
    """Correlation of two yes-or-no columns: a feature that fires `count` times, and partners that fire as often as
    `partners` says."""
    a, b = float(count), partners.astype(np.float64)
    spread = a * (n - a) * b * (n - b)
    return np.where(spread > 0, (n * together - a * b) / np.sqrt(np.maximum(spread, 1.0)), 0.0)
