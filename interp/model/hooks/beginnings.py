"""What prompts begin with alike is read once: each further token goes on top of the cache of those before it.

Prompts that are made from a template differ in their last words, and prompts of one layout whose late tokens are edited
are the same up to there. Both go on from a cache, where that gives what a whole forward gives (asked, see `caches.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from interp.model.hooks.caches import cache_deals, dealt
from interp.model.hooks.forward import forward, keeps_a_cache
from interp.model.hooks.tokens import Tokens
from interp.model.hooks.tree import HookedTree

MOST_PIECES = 24  # of the longest prompt: each is a forward of its own
Last = Callable[[Tokens, list[list[int]], Any], None]


def begins_once(tree: HookedTree, rows: Sequence[Sequence[int]], sites: Sequence[str]) -> bool:
    """May beginnings of these prompts be shared in a forward that reads, or edits, `sites`?"""
    return keeps_a_cache(tree, sites, [[0], *rows], 0) and cache_deals(tree, sites)  # from the first token on


def begin_alike_enough(rows: Sequence[Sequence[int]]) -> bool:
    """Is a third of the tokens read once for several prompts, in few pieces? Of texts of many lengths it is not."""
    ordered = sorted(map(tuple, rows))
    shared = sum(_alike(one, other) for one, other in pairwise(ordered))
    return 3 * shared >= sum(map(len, rows)) and len(_ends(rows)) <= MOST_PIECES


def read_last(tree: HookedTree, rows: Sequence[Sequence[int]], batch_size: int, last: Last) -> None:
    """Read beginnings once, and call `last(batch, numbers, cache)` for the ends of prompts.

    The batch goes on top of the cache up to the last token of each of its rows, which are the prompts `numbers` [row,
    …]: several where prompts are alike.
    """
    _Reading(tree, rows, batch_size, last, _ends(rows)).go([list(range(len(rows)))], 0, None)


@dataclass(frozen=True)
class _Reading:
    """Prompts as a tree of tokens, which is read from the first token on, those side by side that are as far."""

    tree: HookedTree
    rows: Sequence[Sequence[int]]
    batch_size: int
    last: Last
    ends: list[int]

    def go(self, parents: Sequence[Sequence[int]], start: int, cache: Any) -> None:
        """Read on from `start` behind each of `parents`: the numbers of prompts that are alike up to there."""
        end = next((end for end in self.ends if end > start), None)
        if end is None:
            return
        inner: list[tuple[int, list[int]]] = []
        last: list[tuple[int, list[int]]] = []
        for parent, numbers in enumerate(parents):
            nodes: dict[tuple[Any, ...], list[int]] = {}
            for i in numbers:
                if len(self.rows[i]) >= end:
                    nodes.setdefault((len(self.rows[i]) == end, *self.rows[i][start:end]), []).append(i)
            for (is_last, *_), of_node in nodes.items():
                (last if is_last else inner).append((parent, of_node))
        for kind in (inner, last):
            for at in range(0, len(kind), self.batch_size):
                self._read(kind[at : at + self.batch_size], start, end, cache, is_last=kind is last)

    def _read(self, nodes: list[tuple[int, list[int]]], start: int, end: int, cache: Any, *, is_last: bool) -> None:
        """One forward: the tokens from `start` to `end` of each node, and then what follows behind them."""
        device = self.tree.hf.device
        numbers = [of_node for _, of_node in nodes]
        ids = torch.tensor([list(self.rows[some[0]][start:end]) for some in numbers], device=device)
        index = torch.tensor([some[0] for some in numbers])
        past = torch.ones(len(ids), start, dtype=torch.bool, device=device) if start else None
        batch = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), index, len(self.rows), past=past)
        here = None if cache is None else dealt(cache, [parent for parent, _ in nodes])
        if is_last:
            self.last(batch, numbers, here)
        else:
            self.go(numbers, end, forward(self.tree, batch, keep=1, cache=here, use_cache=True).cache)


def _ends(rows: Sequence[Sequence[int]]) -> list[int]:
    """How far to read at once: to where prompts part, and to the end of each.

    [[1, 2, 3, 4], [1, 2, 5, 4]] is read to 2 and to 4: the second forward has two tokens of each.
    """
    ordered = sorted(map(tuple, rows))  # neighbours in this order part last
    return sorted({*map(len, rows), *(_alike(one, other) for one, other in pairwise(ordered))} - {0})


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
