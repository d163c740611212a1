"""The firings of a corpus on disk, in pieces: each holds some sequences' firings, sorted by feature and by row.

A piece is whole or not there, so that a build that was killed goes on, and several workers share the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.activations.tensor_file import map_tensors, note_of, read_tensors, write_tensors
from interp.errors import UserError
from interp.features.build.coder import Coded

PIECES = "firings-*.safetensors"
FORMAT = 2  # of a piece; those of an earlier version are made again


def piece_path(folder: Path, index: int) -> Path:
    """Where a piece lies."""
    return folder / f"firings-{index:05d}.safetensors"


def write_piece(folder: Path, index: int, plan: str, first: int, coded: Coded, norm: Float[Tensor, " row"]) -> None:
    """Write the firings of the rows from `first` on; `plan` is the hash of what they are of.

    By feature: `feature` [firing feature], those that fire, ascending; `start`, where the firings of each begin;
    `row` and `value` [firing]. By row: `row_start` [row + 1] and `by_row` [firing], the features. And `norm` and
    `error` [row].
    """
    pairs = coded.pairs
    feature, order = torch.sort(pairs.feature, stable=True)
    fires, counts = torch.unique_consecutive(feature, return_counts=True)
    tensors = {
        "feature": fires.int(),
        "start": torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        "row": (pairs.row[order] + first).int(),
        "value": pairs.pre[order],
        "row_start": pairs.starts.long(),
        "by_row": pairs.feature.int(),
        "norm": norm.float(),
        "error": coded.error,
    }
    write_tensors(piece_path(folder, index), tensors, _note(index, plan))


def _note(index: int, plan: str) -> dict[str, object]:
    return {"plan": plan, "piece": index, "format": FORMAT}


def is_there(folder: Path, index: int, plan: str) -> bool:
    """Is the piece there, and of this plan? Written whole or not at all; its bytes are `is_right`'s to check."""
    return note_of(piece_path(folder, index)) == _note(index, plan)


def is_right(folder: Path, index: int, plan: str) -> bool:
    """The same, and every byte as it was written."""
    try:
        return read_tensors(piece_path(folder, index))[1] == _note(index, plan)
    except UserError:  # damaged, or not there
        return False


@dataclass(frozen=True)
class Firings:
    """All pieces of a corpus. `n_rows` rows, `d_sae` features; firings at `is_sink` rows are left out."""

    folder: Path
    pieces: int
    d_sae: int
    is_sink: NDArray[np.bool_]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Firings of every feature."""
        total = np.zeros(self.d_sae, np.int64)
        for i in range(self.pieces):
            piece = map_tensors(piece_path(self.folder, i))
            feature, start = piece["feature"].numpy(), piece["start"].numpy()
            total[feature] += np.diff(start)
            sunk = np.flatnonzero(self.is_sink[piece["row"].numpy()])
            if len(sunk):
                of = feature[np.searchsorted(start, sunk, side="right") - 1]
                total -= np.bincount(of, minlength=self.d_sae)
        return total

    def gather(self, run: range) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """The firings of a run of features: where each one's begin, their rows, which ascend, and their activations."""
        features, rows, values = [], [], []
        for i in range(self.pieces):
            piece = map_tensors(piece_path(self.folder, i))  # let go again at once: a mapping counts as memory
            fires, start = piece["feature"].numpy(), piece["start"].numpy()
            a, b = np.searchsorted(fires, [run.start, run.stop])
            span = slice(int(start[a]), int(start[b]))
            row, value = piece["row"][span].numpy(), piece["value"][span].numpy()
            feature = np.repeat(fires[a:b] - np.int32(run.start), np.diff(start[a : b + 1]))
            kept = ~self.is_sink[row]
            features.append(feature[kept])
            rows.append(row[kept])
            values.append(value[kept])
        feature = np.concatenate(features)
        order = np.argsort(feature, kind="stable")  # pieces follow each other in the order of rows
        starts = np.concatenate([[0], np.cumsum(np.bincount(feature, minlength=len(run)))])
        return starts, np.concatenate(rows)[order], np.concatenate(values)[order]

    def runs(self, most: int, features: int) -> list[range]:
        """All features in runs of at most `most` firings (or one feature), and at most `features` features."""
        ends, first, runs = np.cumsum(self.counts), 0, []
        while first < self.d_sae:
            before = int(ends[first - 1]) if first else 0
            stop = int(np.searchsorted(ends, before + most, side="right"))
            runs.append(range(first, max(first + 1, min(stop, first + features))))
            first = runs[-1].stop
        return runs

    def rows_of_pieces(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
        """Piece by piece, firings in the order of rows: how many each row has, and the features."""
        first = 0
        for i in range(self.pieces):
            piece = map_tensors(piece_path(self.folder, i))
            lengths = np.diff(piece["row_start"].numpy())
            kept = ~self.is_sink[first : first + len(lengths)]
            first += len(lengths)
            yield lengths * kept, piece["by_row"].numpy()[np.repeat(kept, lengths)]
