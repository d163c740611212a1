"""Word analogies: is "king" less "man" plus "woman" the queen? Offsets of word vectors, beside baselines without any.

Mikolov et al. 1301.3781 answer a question a : b = c : ? by the word nearest to c + b - a. The three words of the
question are usually left out of the answers, and then the word nearest to c alone is often the right one, whatever the
offset (Linzen 1606.07736; Rogers et al. 2017, "The (too many) problems of analogical reasoning"). So each way of asking
has its baselines here, and each can be asked with those words and without.

    questions = ask_analogies(vectors, pairs)          # pairs of one family: places of man and woman, king and queen, …
    by_pair(questions.right("offset"))       # for each pair, the share of the others by which its second word is found
    by_pair(questions.dealt([2, 0, 1, …]))   # the same, by wrong pairs: man and princess, king and woman, …
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.model.hooks.shown import Shown

Floats = NDArray[np.float64]
Way = Literal["offset", "third word alone", "second word alone", "second and third word", "random offset"]


@dataclass(frozen=True, repr=False)
class Questions(Shown):
    """The pairs of one family, each asked with every other one as the example, over some candidates.

    `centred` [candidate, d]: vectors, their mean taken out: all vectors of a model share a direction, which would make
    every cosine high. `places` [pair, 2]: which candidates a pair's words are. `word` [candidate]: a number a word;
    several candidates may be one word, spelt otherwise. The answer is the word whose vector has the largest cosine with
    the query.
    """

    centred: Float[Tensor, "candidate d"]
    places: NDArray[np.int64]
    word: Int[Tensor, " candidate"]
    seed: int

    def right(self, way: Way = "offset", *, keep: bool = False) -> Floats:
        """Is the fourth word found? [example, asked], NaN on the diagonal.

        `keep` lets the question's own three words be answers, too.
        """
        n = len(self.places)
        third, second = self._first[None], self._second[:, None]
        queries = {
            "offset": lambda: third + (second - self._first[:, None]),
            "third word alone": lambda: third.expand(n, -1, -1),
            "second word alone": lambda: second.expand(-1, n, -1),
            "second and third word": lambda: third + second,
            "random offset": lambda: third + self._drift(),
        }
        example = torch.arange(n)
        found = self._is_right(queries[way](), example, example, keep)
        found[np.eye(n, dtype=bool)] = np.nan
        return found

    def dealt(self, order: Sequence[int]) -> Floats:
        """Is it found by the offset of wrong pairs? Pair i's first word is the example with pair order[i]'s second.

        [example, asked], NaN where the example has a word of the asked pair. Raises ValueError for an order that does
        not hold every pair once.
        """
        n = len(self.places)
        if sorted(order) != list(range(n)):
            raise ValueError(f"order={order!r} for {n} pairs; expected each of them once")
        return self._every_pairing[np.arange(n), list(order)]

    @cached_property
    def _every_pairing(self) -> NDArray[np.float64]:
        """[first, second, asked]: found by the offset from any pair's first word to any pair's second one?"""
        n = len(self.places)
        number = np.arange(n)
        table = np.empty((n, n, n))
        for i in range(n):
            offsets = self._second - self._first[i]
            scores = self._first[None] + offsets[:, None]
            table[i] = self._is_right(scores, torch.full((n,), i), torch.arange(n), keep=False)
        table[np.broadcast_to(number[:, None, None] == number, table.shape)] = np.nan
        table[np.broadcast_to(number[:, None] == number, table.shape)] = np.nan
        return table

    def _is_right(self, scores: Float[Tensor, "example pair candidate"], a: Tensor, b: Tensor, keep: bool) -> Floats:
        """`a`, `b` [example]: the pairs that an example has its first and second word of."""
        firsts, seconds = (self.word[column] for column in torch.from_numpy(self.places).T)
        if not keep:
            first, second = (words[:, None] == self.word for words in (firsts, seconds))
            scores = scores.masked_fill((first[a] | second[b])[:, None] | first[None], -torch.inf)
        return (self.word[scores.argmax(-1)] == seconds[None]).double().numpy()

    @cached_property
    def _lengths(self) -> Tensor:
        return self.centred.norm(dim=1).clamp(min=1e-12)

    @cached_property
    def _first(self) -> Float[Tensor, "pair candidate"]:
        """Products of the pairs' first words with every candidate's unit vector: a query's are sums of such."""
        return self._along(self.centred[self.places[:, 0]])

    @cached_property
    def _second(self) -> Float[Tensor, "pair candidate"]:
        return self._along(self.centred[self.places[:, 1]])

    def _along(self, rows: Float[Tensor, "... d"]) -> Float[Tensor, "... candidate"]:
        return rows @ self.centred.T / self._lengths

    def _drift(self) -> Float[Tensor, "pair pair candidate"]:
        """Random vectors, as long as the example's offset."""
        n, d = len(self.places), self.centred.shape[1]
        offsets = self.centred[self.places[:, 1]] - self.centred[self.places[:, 0]]
        drift = torch.randn(n, n, d, generator=torch.Generator().manual_seed(self.seed)).to(offsets)
        return self._along(drift / drift.norm(dim=-1, keepdim=True) * offsets.norm(dim=1)[:, None, None])


def ask_analogies(
    vectors: Float[Tensor, "candidate d"],
    pairs: Sequence[tuple[int, int]],
    *,
    words: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Questions:
    """Questions of `pairs`, places among the candidates. `seed` decides the random offsets.

    `words` [candidate]: which word each candidate is, where several are one ("king", " King", " king"): any spelling of
    the fourth word is right, and with a word of the question all of its spellings are left out.
    Raises ValueError for fewer than three pairs, and for a word that is in two of them.
    """
    places = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    numbers: dict[Hashable, int] = {}
    named = range(len(vectors)) if words is None else words
    word = torch.tensor([numbers.setdefault(name, len(numbers)) for name in named])
    if len(places) < 3 or len(set(word[places.ravel()].tolist())) < places.size:
        raise ValueError("questions need three pairs or more, of words that are all different")
    vectors = vectors.detach().float().cpu()  # some hundred words: sorting answers is numpy's
    return Questions(vectors - vectors.mean(0), places, word, seed)


def by_pair(right: Floats) -> Floats:
    """[example, asked] to [asked]: the share of its examples by which each pair's second word is found."""
    return np.nanmean(right, axis=0)


def every_cosine(vectors: Float[Tensor, "word d"], pairs: Sequence[tuple[int, int]]) -> Floats:
    """Cosines of all offsets from a pair's first word to a pair's second one [first, second, first, second].

    NaN where two offsets have words of one pair: what these share would pass for a direction, or hide one.
    """
    places = np.array(pairs, dtype=np.int64)
    n, number = len(places), np.arange(len(places))
    vectors = vectors.cpu().double()
    offsets = vectors[places[:, 1]][None] - vectors[places[:, 0]][:, None]
    unit = (offsets / offsets.norm(dim=-1, keepdim=True).clamp(min=1e-300)).flatten(0, 1)
    found = (unit @ unit.T).clamp(-1, 1).numpy().reshape(n, n, n, n)
    i, k, j, m = np.ix_(number, number, number, number)
    found[(i == j) | (i == m) | (k == j) | (k == m)] = np.nan
    return found


def alike(cosines: Floats, order: Sequence[int] | None = None) -> Floats:
    """How alike the offsets of pairs are [pair, pair], of `every_cosine`: 1 where all differ in one direction.

    `order` deals the second words anew: pair i gets that of pair order[i].
    """
    number = np.arange(len(cosines))
    second = number if order is None else np.asarray(order)
    return cosines[number[:, None], second[:, None], number[None], second[None]]
