"""A name for every feature from its firings alone, and how well that name predicts firing on other documents.

A label is a rule that a reader can check: the feature fires on these tokens, or words, or behind these tokens, or on
such kinds of token. Of a few such readings the one is taken whose best rule correlates most with firing on four fifths
of the documents; its score is the same correlation on the fifth that took no part. So a score near 0 says that the
label says nothing, whatever it sounds like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.features.build.statistics import RowFacts
from interp.features.read.feature import Label

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
    """A way to look at a token: `key` [row] is what a rule may name, `in_words` says a key in words."""

    before: str
    key: NDArray[np.int64]
    in_words: Callable[[int], str]


class Score(NamedTuple):
    """How a prediction fares against what fires."""

    phi: float
    precision: float
    recall: float


class TokenRules:
    """Rules over tokens that name the features of one corpus. Made once: it holds every token in every reading."""

    def __init__(self, facts: RowFacts, document: NDArray[np.int32], vocabulary: list[str]) -> None:
        counted = ~facts.is_sink
        self.held_out = document % HELD_OUT == HELD_OUT - 1
        self.sizes = (int((counted & ~self.held_out).sum()), int((counted & self.held_out).sum()))
        self.readings = [
            _Counted.of(reading, counted & ~self.held_out, counted & self.held_out)
            for reading in read_tokens(facts, vocabulary)
        ]

    def name(self, rows: NDArray[np.int32]) -> Label:
        """The label of a feature that fires on `rows`."""
        return self.name_all(np.array([0, len(rows)]), rows)[0]

    def name_all(self, starts: NDArray[np.int64], rows: NDArray[np.int32]) -> list[Label]:
        """Labels of features whose firings are `rows[starts[i] : starts[i + 1]]`, all of them at once."""
        n = len(starts) - 1
        feature, held_out = np.repeat(np.arange(n), np.diff(starts)), self.held_out[rows]
        rules = self._choose(_Firings(feature[~held_out], rows[~held_out], n))
        test = self._examine(rules, _Firings(feature[held_out], rows[held_out], n))
        never = starts[:-1] == starts[1:]
        return [
            self._label(
                rules.reading[i], rules.keys[i], bool(never[i]), (int(test[0][i]), int(test[1][i]), int(test[2][i]))
            )
            for i in range(n)
        ]

    def _choose(self, training: _Firings) -> _Rules:
        """Of each feature the reading whose best rule correlates most with its firing on the training documents."""
        best, chosen = np.full(training.features, -np.inf), np.full(training.features, -1)
        keys = np.full((training.features, KEYS), -1)
        for number, reading in enumerate(self.readings):
            candidate_keys, phi = _best_rules(reading, training, self.sizes[0])
            is_better = phi > best + 1e-9
            best[is_better], chosen[is_better], keys[is_better] = phi[is_better], number, candidate_keys[is_better]
        return _Rules(chosen, keys)

    def _examine(self, rules: _Rules, test: _Firings) -> tuple[NDArray[np.int64], ...]:
        """Of each feature the held-out tokens that its rule names and that fire, that it names, and that fire."""
        hits, predicted = np.zeros(test.features, np.int64), np.zeros(test.features, np.int64)
        for number, reading in enumerate(self.readings):
            members = np.flatnonzero(rules.reading == number)  # the features that this reading names
            keys = rules.keys[members]
            named = np.unique((members[:, None] * reading.kinds + keys)[keys >= 0])
            fired = test.feature * reading.kinds + reading.code[test.rows]
            hits += np.bincount(test.feature[np.isin(fired, named)], minlength=test.features)
            predicted[members] = np.where(keys >= 0, reading.met_held_out[keys.clip(0)], 0).sum(1)
        return hits, predicted, test.counts

    def _label(self, reading: int, keys: NDArray[np.int64], never: bool, test: tuple[int, int, int]) -> Label:
        if reading < 0:
            return _nothing("never fires here" if never else "no rule found")
        text = self.readings[reading].in_words([int(key) for key in keys if key >= 0])
        hits, predicted, fires = test
        return Label(text, *match_score(hits, predicted, fires, self.sizes[1]), BY)


@dataclass(frozen=True)
class _Firings:
    """Where features fire, in no particular order: firing i is of `feature[i]` at `rows[i]`."""

    feature: NDArray[np.int64]
    rows: NDArray[np.int32]
    features: int

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.bincount(self.feature, minlength=self.features)


class _Rules(NamedTuple):
    """Of each feature the number of its reading, -1 for none, and the codes of its rule's keys, -1 behind the last."""

    reading: NDArray[np.int64]
    keys: NDArray[np.int64]


def _nothing(text: str) -> Label:
    return Label(text, float("nan"), float("nan"), float("nan"), BY)


@dataclass(frozen=True)
class _Counted:
    """A reading, its keys numbered in ascending order: `code` [row]; how often each is `met` where rules are made, and
    on the documents that are `held_out`."""

    reading: Reading
    keys: NDArray[np.int64]
    code: NDArray[np.int64]
    met: NDArray[np.int64]
    met_held_out: NDArray[np.int64]

    @classmethod
    def of(cls, reading: Reading, training: NDArray[np.bool_], held_out: NDArray[np.bool_]) -> _Counted:
        keys, code = np.unique(reading.key, return_inverse=True)
        met, met_held_out = (np.bincount(code[rows], minlength=len(keys)) for rows in (training, held_out))
        return cls(reading, keys, code, met, met_held_out)

    @property
    def kinds(self) -> int:
        return len(self.keys)

    def in_words(self, codes: Sequence[int]) -> str:
        """A rule in words."""
        shown = ", ".join(self.reading.in_words(int(self.keys[code])) for code in codes[:SHOWN])
        return f"{self.reading.before}{shown}" + (f" (+{len(codes) - SHOWN})" if len(codes) > SHOWN else "")


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


def _best_rules(reading: _Counted, training: _Firings, n: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For every feature the keys that predict its firing best, [feature, KEYS], -1 behind the last, and how well.

    Keys by their share of firing, as many as help. A key met twice and fired on twice says less than one met fifty
    times: one miss is added to each. And each pays its first firing, without which it would not be in the rule: else
    rare pairs of tokens win.
    """
    features = training.features
    pairs, hits = np.unique(training.feature * reading.kinds + reading.code[training.rows], return_counts=True)
    pairs, hits = pairs[hits >= SEEN], hits[hits >= SEEN]
    feature, code = np.divmod(pairs, max(1, reading.kinds))
    met = reading.met[code]
    order = np.lexsort((code, -hits / (met + 1), feature))
    feature, code, hits, met = feature[order], code[order], hits[order], met[order]
    place = np.arange(len(feature)) - np.searchsorted(feature, np.arange(features))[feature]
    kept = place < KEYS
    feature, code, hits, met, place = feature[kept], code[kept], hits[kept] - 1, met[kept] - 1, place[kept]
    keys = np.full((features, KEYS), -1)
    keys[feature, place] = code
    counts = np.zeros((2, features, KEYS), np.int64)
    counts[0, feature, place], counts[1, feature, place] = hits, met
    hits_so_far, named_so_far = counts.cumsum(2)
    phi = np.where(keys >= 0, _phi(hits_so_far, named_so_far, training.counts[:, None], n), -np.inf)
    best = phi.argmax(1)
    keys[np.arange(KEYS) > best[:, None]] = -1
    return keys, phi[np.arange(features), best]


def _phi(hits: Any, predicted: Any, fires: Any, n: int) -> NDArray[np.float64]:
    """Correlation of two yes-or-no columns (Matthews): 0 where one of them is constant."""
    hits, predicted, fires = (np.asarray(one, np.float64) for one in (hits, predicted, fires))
    spread = predicted * (n - predicted) * fires * (n - fires)
    return np.where(spread > 0, (n * hits - predicted * fires) / np.sqrt(np.maximum(spread, 1)), 0.0)


def match_score(hits: int, predicted: int, fires: int, n: int) -> Score:
    """Of `n` tokens `predicted` were named, `fires` fire, and `hits` are both."""
    if fires == 0:
        return Score(float("nan"), float("nan"), float("nan"))
    return Score(float(_phi(hits, predicted, fires, n)), hits / predicted if predicted else float("nan"), hits / fires)
