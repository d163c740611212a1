"""The places of a sweep, and the runs in which they are patched, many in one forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model.hooks.beginnings import begins_once
from interp.model.hooks.caches import dealt
from interp.model.hooks.editing import Edit
from interp.model.hooks.forward import engine_for, forward, measure_batch
from interp.model.hooks.metrics import Metric, needs_last_only
from interp.model.hooks.tokens import Tokens
from interp.model.hooks.where import Where
from interp.model.model import Model


@dataclass(frozen=True)
class Cell:
    """One place of one pair: where it stands in the table of effects, and what is patched there."""

    pair: int
    index: tuple[int, ...]
    pos: int | None
    head: int | None


def is_the_same(source: Sequence[int], corrupt: Sequence[int], cell: Cell) -> bool:
    """Does a cell stand before the first token in which its pair differs? There the two runs are one."""
    return cell.pos is not None and list(source[: cell.pos + 1]) == list(corrupt[: cell.pos + 1])


def in_batches(cells: Sequence[Cell], rows: Sequence[Sequence[int]], size: int) -> Iterator[list[Cell]]:
    """Cells of prompts of one length, those of late tokens together: what stands before them is read once."""
    by_length: dict[int, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.pos or 0):
        by_length.setdefault(len(rows[cell.pair]), []).append(cell)
    for alike in by_length.values():
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


class Runs:
    """The corrupt runs of some cells, all of one length, one a row.

    Nothing changes before the first of their places: up to there each pair is read once, for all cells and sites.
    """

    def __init__(
        self, model: Model, rows: Sequence[Sequence[int]], cells: Sequence[Cell], sites: Sequence[str], metric: Metric
    ) -> None:
        self.model, self.rows, self.cells, self.metric = model, rows, cells, metric
        self.pairs = list(dict.fromkeys(cell.pair for cell in cells))
        first = min(0 if cell.pos is None else cell.pos for cell in cells)
        table = model.site_table
        worth = 2 * len(self.pairs) <= len(cells) * len(sites)
        # an edit of the caller's may act on any token, and other metrics may read any
        alone = not model.is_edited and needs_last_only(metric)
        one_token = all(table.axes[site].count("pos") == 1 for site in sites)  # a pattern has keys, too
        self.start = first if worth and alone and one_token else 0
        self.caches: dict[str, Any] = {}

    def patched(self, site: str, values: Float[Tensor, "pair ..."], axes: Sequence[str]) -> Float[Tensor, " cell"]:
        """The metric of each run, with `values` of its pair at its place of `site`."""
        model, tree = self.model, self.model.tree
        engine = engine_for(tree, (), [site])
        with torch.no_grad(), tree.hooked_only() if engine == "hooked" else nullcontext():
            if engine not in self.caches:
                self.caches[engine] = self._begun()
            cache = self.caches[engine]
            start = 0 if cache is None else self.start
            cells = [cell if cell.pos is None else replace(cell, pos=cell.pos - start) for cell in self.cells]
            batch = self._batch([cell.pair for cell in cells], start, None)
            here = None if cache is None else dealt(cache, [self.pairs.index(cell.pair) for cell in cells])
            with model.edit({site: patch_cells(values[:, start:] if start else values, axes, cells)}):
                return measure_batch(tree, batch, self.metric, cache=here)

    def _begun(self) -> Any:
        """The cache of each pair's tokens before the first place; None where they must be read with what follows."""
        if not self.start or not begins_once(self.model.tree, [self.rows[pair] for pair in self.pairs], ()):
            return None
        return forward(self.model.tree, self._batch(self.pairs, 0, self.start), keep=1, use_cache=True).cache

    def _batch(self, pairs: Sequence[int], start: int, stop: int | None) -> Tokens:
        ids = torch.tensor([list(self.rows[pair][start:stop]) for pair in pairs], device=self.model.device)
        real = torch.ones_like(ids, dtype=torch.bool)
        past = torch.ones(len(ids), start, dtype=torch.bool, device=ids.device) if start else None
        return Tokens(ids, real, torch.tensor(list(pairs)), len(self.rows), past=past)


def place_of(axes: Sequence[str], length: int, cell: Cell) -> tuple[int | slice, ...]:
    """Where a cell lies in a prompt's activation: of a pattern a position is a query, with its real keys."""
    place: list[int | slice] = []
    for axis in axes[1:]:
        if axis == "pos" and "pos" not in axes[1 : len(place) + 1]:
            place.append(slice(0, length) if cell.pos is None else cell.pos)
        elif axis == "pos":
            place.append(slice(0, length))
        else:
            place.append(cell.head if axis == "head" and cell.head is not None else slice(None))
    return tuple(place)


def patch_cells(values: Float[Tensor, "pair ..."], axes: Sequence[str], cells: Sequence[Cell]) -> Edit:
    """Row i of the run gets `values` of its pair at the place of cell i."""

    def patched(activation: Tensor, where: Where) -> Tensor:
        out = activation.clone()
        for row, cell in enumerate(cells):
            place = place_of(axes, int(where.mask[row].sum()), cell)
            out[(row, *place)] = values[(cell.pair, *place)].to(out)
        return out

    return patched
