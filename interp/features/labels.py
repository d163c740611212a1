"""A name for every feature from its firings alone, and how well that name predicts firing on other documents.

A label is a rule that a reader can check: the feature fires on these tokens, or words, or behind these tokens, or on
such kinds of token. Of a few such readings the one is taken whose best rule correlates most with firing on four fifths
of the documents; its score is the same correlation on the fifth that took no part. So a score near 0 says that the
label says nothing, whatever it sounds like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.features.index import Label
from interp.features.statistics import RowFacts

HELD_OUT = 5  # every fifth document
KEYS = 12  # of a rule, at most
SHOWN = 4
SEEN = 2  # firings on a key, at least, for it to stand in a rule
BY = "rule"
KINDS = (
    "line breaks",
    "blanks",
    "punctuation and signs",
    "numbers",
    "later pieces of words",
    "upper-case words",
    "title-case words",
    "lower-case words",
    "other scripts",
)


@dataclass(frozen=True)
class Reading:
    """A way to look at a token: `key` [row] is what a rule may name, `told` says a key in words."""

    before: str
    key: NDArray[np.int64]
    told: Callable[[int], str]


class Score(NamedTuple):
    """How a prediction fares against what fires."""

    phi: float
    precision: float
    recall: float


class Namer:
    """Names features of one corpus. Made once: it holds every token in every reading."""

    def __init__(self, facts: RowFacts, document: NDArray[np.int32], vocabulary: list[str]) -> None:
        self.readings = read_tokens(facts, vocabulary)
        counted = ~facts.is_sink
        self.held_out = document % HELD_OUT == HELD_OUT - 1
        self.sizes = (int((counted & ~self.held_out).sum()), int((counted & self.held_out).sum()))
        self.totals = [
            tuple(_counted(reading.key[counted & part]) for part in (~self.held_out, self.held_out))
            for reading in self.readings
        ]

    def name(self, rows: NDArray[np.int32]) -> Label:
        """The label of a feature that fires on `rows`."""
        apart = self.held_out[rows]
        ours, theirs = rows[~apart], rows[apart]
        best: tuple[float, Reading, NDArray[np.int64], Any] | None = None
        for reading, totals in zip(self.readings, self.totals, strict=True):
            keys, phi = _best_rule(reading.key[ours], totals[0], self.sizes[0])
            if len(keys) and (best is None or phi > best[0] + 1e-9):
                best = phi, reading, keys, totals[1]
        if best is None:
            text = "never fires here" if len(rows) == 0 else "no rule found"
            return Label(text, float("nan"), float("nan"), float("nan"), BY)
        _, reading, keys, totals = best
        hits = int(np.isin(reading.key[theirs], keys).sum())
        score = match_score(hits, int(_totals_of(totals, keys).sum()), len(theirs), self.sizes[1])
        told = [reading.told(int(key)) for key in keys[:SHOWN]]
        more = f" (+{len(keys) - SHOWN})" if len(keys) > SHOWN else ""
        return Label(f"{reading.before}{', '.join(told)}{more}", *score, BY)


def read_tokens(facts: RowFacts, vocabulary: list[str]) -> list[Reading]:
    """The readings, the plainest first."""
    token = facts.token.astype(np.int64)
    starts = facts.place == 0
    before = np.where(starts, -1, np.concatenate([[-1], token[:-1]]))
    size = len(vocabulary) + 1
    word, words = _words(facts, vocabulary)
    kind = np.array([_kind(text) for text in vocabulary] or [0], np.int64)[token]
    kind[facts.is_later] = KINDS.index("later pieces of words")

    def quoted(key: int) -> str:
        return f"“{vocabulary[key]}”" if key >= 0 else "the beginning"

    return [
        Reading("", token, quoted),
        Reading("the word ", word, lambda key: words[key]),
        Reading("", kind, lambda key: KINDS[key]),
        Reading("after ", before, quoted),
        Reading("", before * size + token, lambda key: f"“{_pair(key, size, vocabulary)}”"),
        Reading("place in the text: ", np.minimum(facts.place, 16).astype(np.int64), _place),
    ]


def _place(key: int) -> str:
    return f"{key + 1}" if key < 16 else "17 and later"


def _pair(key: int, size: int, vocabulary: list[str]) -> str:
    before, token = divmod(key, size)
    return (vocabulary[before] if before >= 0 else "") + vocabulary[token]


def _words(facts: RowFacts, vocabulary: list[str]) -> tuple[NDArray[np.int64], list[str]]:
    """The number of the whole word that each token is of, in small letters, and the words."""
    begins = np.flatnonzero(~facts.is_later)
    ends = np.append(begins[1:], len(facts.token))
    numbers: dict[str, int] = {}
    tokens = facts.token.tolist()
    of_word = np.empty(len(begins), np.int64)
    plain: dict[int, int] = {}  # words of one token, the most: each is looked up once
    for i, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        if end - begin == 1 and (known := plain.get(tokens[begin])) is not None:
            of_word[i] = known
            continue
        text = "".join(vocabulary[token] for token in tokens[begin:end]).strip().casefold()
        of_word[i] = numbers.setdefault(text or repr(vocabulary[tokens[begin]]), len(numbers))
        if end - begin == 1:
            plain[tokens[begin]] = int(of_word[i])
    return np.repeat(of_word, ends - begins), list(numbers)


def _kind(text: str) -> int:
    bare = text.strip()
    if not bare:
        return KINDS.index("line breaks" if "\n" in text else "blanks")
    if not any(c.isalnum() for c in bare):
        return KINDS.index("punctuation and signs")
    if bare.isdigit():
        return KINDS.index("numbers")
    if not bare.isascii():
        return KINDS.index("other scripts")
    if bare.isupper() and len(bare) > 1:
        return KINDS.index("upper-case words")
    return KINDS.index("title-case words" if bare[:1].isupper() else "lower-case words")


def _counted(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.unique(keys, return_counts=True)


def _totals_of(totals: tuple[NDArray[np.int64], NDArray[np.int64]], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each key is met at all."""
    there, counts = totals
    if len(there) == 0:
        return np.zeros(len(keys), np.int64)
    at = np.minimum(np.searchsorted(there, keys), len(there) - 1)
    return np.where(there[at] == keys, counts[at], 0)


def _best_rule(
    fired: NDArray[np.int64], totals: tuple[NDArray[np.int64], NDArray[np.int64]], n: int
) -> tuple[NDArray[np.int64], float]:
    """The set of keys that predicts firing best: keys by their share of firing, as many as help."""
    keys, hits = _counted(fired)
    enough = hits >= SEEN
    keys, hits = keys[enough], hits[enough]
    if len(keys) == 0:
        return keys, 0.0
    met = _totals_of(totals, keys)
    # a key met twice and fired on twice says less than one met fifty times: one miss is added to each
    order = np.lexsort((keys, -hits / (met + 1)))[:KEYS]
    # and each pays its first firing, without which it would not be in the rule: else rare pairs of tokens win
    phi = _phi(np.cumsum(hits[order] - 1), np.cumsum(met[order] - 1), len(fired), n)
    best = int(np.argmax(phi))
    return keys[order[: best + 1]], float(phi[best])


def _phi(hits: Any, predicted: Any, fires: int, n: int) -> NDArray[np.float64]:
    """Correlation of two yes-or-no columns (Matthews): 0 where one of them is constant."""
    hits, predicted = np.asarray(hits, np.float64), np.asarray(predicted, np.float64)
    spread = predicted * (n - predicted) * float(fires) * (n - fires)
    return np.where(spread > 0, (n * hits - predicted * fires) / np.sqrt(np.maximum(spread, 1)), 0.0)


def match_score(hits: int, predicted: int, fires: int, n: int) -> Score:
    """Of `n` tokens `predicted` were named, `fires` fire, and `hits` are both."""
    if fires == 0:
        return Score(float("nan"), float("nan"), float("nan"))
    return Score(float(_phi(hits, predicted, fires, n)), hits / predicted if predicted else float("nan"), hits / fires)
