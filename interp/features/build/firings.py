"""The firings of a corpus on disk, in pieces: each holds some sequences' firings sorted by feature.

A piece is whole or not there, so that a build that was killed goes on, and several workers share the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.activations.tensor_file import map_tensors, read_tensors, write_tensors
from interp.errors import UserError
from interp.features.build.coder import Coded

PIECES = "firings-*.safetensors"


def piece_path(folder: Path, index: int) -> Path:
    """Where a piece lies."""
    return folder / f"firings-{index:05d}.safetensors"


def write_piece(folder: Path, index: int, plan: str, first: int, coded: Coded, norm: Float[Tensor, " row"]) -> None:
    """Write the firings of the rows from `first` on; `plan` is the hash of what they are of."""
    pairs = coded.pairs
    feature, order = torch.sort(pairs.feature, stable=True)
    edges = torch.arange(pairs.d_sae + 1, dtype=feature.dtype)
    tensors = {
        "start": torch.searchsorted(feature, edges),
        "row": (pairs.row[order] + first).int(),
        "value": pairs.pre[order],
        "norm": norm.float(),
        "error": coded.error,
    }
    write_tensors(piece_path(folder, index), tensors, {"plan": plan, "piece": index})


def is_there(folder: Path, index: int, plan: str) -> bool:
    """Is the piece there, whole and of this plan?"""
    path = piece_path(folder, index)
    if not path.exists():
        return False
    try:
        return read_tensors(path)[1] == {"plan": plan, "piece": index}
    except UserError:  # damaged: it is made again
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
            start = piece["start"].numpy()
            total += np.diff(start)
            row = piece["row"].numpy()
            sunk = np.flatnonzero(self.is_sink[row])
            if len(sunk):
                total -= np.bincount(np.searchsorted(start, sunk, side="right") - 1, minlength=self.d_sae)
        return total

    def blocks(self, most: int) -> Iterator[tuple[range, NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]]:
        """Features in runs of at most `most` firings (or one feature): (run, where each begins, rows, activations).

        Rows of a feature ascend.
        """
        ends = np.cumsum(self.counts)
        first = 0
        while first < self.d_sae:
            before = int(ends[first - 1]) if first else 0
            stop = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
            yield range(first, stop), *self._gather(first, stop)
            first = stop

    def _gather(self, first: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        features, rows, values = [], [], []
        for i in range(self.pieces):
            piece = map_tensors(piece_path(self.folder, i))  # let go again at once: a mapping counts as memory
            start = piece["start"][first : stop + 1].numpy()
            span = slice(int(start[0]), int(start[-1]))
            row, value = piece["row"][span].numpy(), piece["value"][span].numpy()
            feature = np.repeat(np.arange(stop - first, dtype=np.int32), np.diff(start))
            kept = ~self.is_sink[row]
            features.append(feature[kept])
            rows.append(row[kept])
            values.append(value[kept])
        feature = np.concatenate(features)
        order = np.argsort(feature, kind="stable")  # pieces follow each other in the order of rows
        starts = np.concatenate([[0], np.cumsum(np.bincount(feature, minlength=stop - first))])
        return starts, np.concatenate(rows)[order], np.concatenate(values)[order]

    def by_row(self, pieces: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The firings of some pieces in the order of rows: (where each row begins, features), sinks without any."""
        rows, features = [], []
        low = high = 0
        for i in pieces:
            piece = map_tensors(piece_path(self.folder, i))
            start, row = piece["start"].numpy(), piece["row"].numpy()
            high += len(piece["norm"])
            kept = ~self.is_sink[row]
            rows.append(row[kept])
            features.append(np.repeat(np.arange(self.d_sae, dtype=np.int32), np.diff(start))[kept])
        row, feature = np.concatenate(rows), np.concatenate(features)
        low = int(row.min()) if len(row) else 0
        order = np.argsort(row, kind="stable")
        counts = np.bincount(row - low, minlength=high)
        return np.concatenate([[0], np.cumsum(counts)]), feature[order]
