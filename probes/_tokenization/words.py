"""Words and the pieces that a tokenizer cuts them into."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from interp import Estimate, UserError, data
from interp.stats import estimate_mean

from . import SPLIT

BANDS = ((6, "over 1,000 in a million"), (5, "100 to 1,000"), (4, "10 to 100"), (3, "1 to 10"), (2, "under 1"))
FREQUENT, RARE = 5.0, 4.0  # Zipf: from, below
LEAST = 4  # documents, for an interval over them
COMMON = 20_000  # words that make up nearly all of most texts
FORMS: dict[str, Callable[[str], str]] = {
    "in a sentence": lambda w: f" {w}",
    "at the start": lambda w: w,
    "capital letter": lambda w: f" {w.capitalize()}",
    "all capitals": lambda w: f" {w.upper()}",
}


class HasTokenizer(Protocol):
    """A model, or anything else with a tokenizer: words are counted without weights."""

    @property
    def tokenizer(self) -> Any:
        """Called like one of transformers."""


@dataclass(frozen=True)
class KnownTokenizer:
    """A tokenizer of known behaviour: each match of the pattern `cut` is a token. A space goes with what follows."""

    cut: str

    def tokenizer(self, texts: str | Sequence[str], *, add_special_tokens: bool = False) -> SimpleNamespace:
        """The pieces in place of their ids, for one text or several."""
        if isinstance(texts, str):
            return SimpleNamespace(input_ids=re.findall(self.cut, texts))
        return SimpleNamespace(input_ids=[re.findall(self.cut, text) for text in texts])


WHOLE_WORDS, LETTERS = KnownTokenizer(r" ?\S+"), KnownTokenizer(" ?.")


@dataclass(frozen=True)
class Word:
    """`zipf`: log10 of its occurrences in a thousand million words."""

    text: str
    zipf: float

    @property
    def band(self) -> str:
        return next(name for low, name in BANDS if self.zipf >= low)


def english() -> list[Word]:
    """The bundled list: bands of frequency, words of a to z."""
    with data("words/english.csv").open(encoding="utf-8", newline="") as file:
        return [Word(row["word"], float(row["zipf"])) for row in csv.DictReader(file)]


def frequencies() -> list[tuple[str, float]]:
    """The bundled list of English words of a to z, the most frequent first, each with its Zipf frequency."""
    with data("words/frequencies.csv").open(encoding="utf-8", newline="") as file:
        return [(word, float(row["zipf"])) for row in csv.DictReader(file) for word in row["words"].split()]


def languages() -> dict[str, list[str]]:
    """A hundred frequent words of each language."""
    out: dict[str, list[str]] = {}
    with data("words/languages.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            out.setdefault(row["language"], []).append(row["word"])
    return out


def count_pieces(model: HasTokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text; a leading space is written behind a word, as it stands in a sentence."""
    different = list(dict.fromkeys(texts))  # running text says a few words again and again
    spaced = [text for text in different if text.startswith(" ")]
    bare = [text for text in different if not text.startswith(" ")]
    start = len(model.tokenizer("a", add_special_tokens=False).input_ids)
    counts = {}
    for some, lead, less in ((spaced, "a", start), (bare, "", 0)):
        if some:
            ids = model.tokenizer([lead + text for text in some], add_special_tokens=False).input_ids
            counts |= {text: len(row) - less for text, row in zip(some, ids, strict=True)}
    return [counts[text] for text in texts]


def is_split(model: HasTokenizer, words: Sequence[str], form: str = "in a sentence") -> np.ndarray:
    """Is each word cut into several pieces?"""
    return np.array(count_pieces(model, [FORMS[form](word) for word in words])) > 1


def made_up(words: Sequence[str], seed: int) -> list[str]:
    """Letter strings as long as the words, of their letters in random order across words: no words."""
    rng = random.Random(seed)
    letters = list("".join(words))
    known = set(words)
    out = []
    for word in words:
        made = "".join(rng.choice(letters) for _ in word)
        while made in known:
            made = "".join(rng.choice(letters) for _ in word)
        out.append(made)
    return out


def at_equal_length(words: Sequence[Word], split: np.ndarray) -> tuple[Estimate, Estimate, list[tuple[int, int, int]]]:
    """Shares of (rare, frequent) words that are split, both with the lengths of the rare ones.

    Words of a length that only one of them has are left out. Also (length, rare words, frequent words) of what is used.
    """
    groups: dict[int, tuple[list[bool], list[bool]]] = {}
    for word, cut in zip(words, split.tolist(), strict=True):
        if word.zipf < RARE or word.zipf >= FREQUENT:
            groups.setdefault(len(word.text), ([], []))[word.zipf >= FREQUENT].append(cut)
    used = {n: pair for n, pair in sorted(groups.items()) if min(map(len, pair)) >= 2}
    weights = [len(rare) for rare, _ in used.values()]
    found = [_weighted([pair[which] for pair in used.values()], weights) for which in (0, 1)]
    return found[0], found[1], [(n, len(rare), len(often)) for n, (rare, often) in used.items()]


def _weighted(groups: Sequence[Sequence[bool]], weights: Sequence[int]) -> Estimate:
    """Mean of the groups' shares by weight. Each share's variance is that of two more words, one split and one not
    (Agresti and Coull 1998), so that a group of equal words is no certainty.
    """
    total = sum(weights)
    mean = sum(w * float(np.mean(g)) for g, w in zip(groups, weights, strict=True)) / total
    variance = 0.0
    for group, w in zip(groups, weights, strict=True):
        p, n = (sum(group) + 1) / (len(group) + 2), len(group) + 2
        variance += (w / total) ** 2 * p * (1 - p) / n
    half = 1.96 * variance**0.5
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), sum(map(len, groups)), SPLIT, "word")


def words_of(text: str) -> list[str]:
    """The words of running text, as they are written: runs of letters, without contractions such as "don't"."""
    runs = (run.strip("'’") for run in re.findall(r"[A-Za-z'’]+", text))
    return [run for run in runs if run.isalpha()]


def split_in_text(
    model: HasTokenizer, documents: Sequence[str], seed: int, listed: AbstractSet[str] | None = None
) -> Estimate:
    """Share of the running words of each document that are split, over documents.

    With a list of words, in small letters, only those that stand in it count: others are names, misspellings and
    strings of letters. Raises UserError where fewer than four documents have words enough.
    """
    counted = [[word for word in words_of(text) if listed is None or word.lower() in listed] for text in documents]
    counted = [words for words in counted if len(words) >= 20]
    if len(counted) < LEAST:
        raise UserError(
            f"{len(counted)} documents of the corpus have 20 English words or more; "
            f"expected {LEAST} such documents or more; use more text"
        )
    split = is_split(model, [word for words in counted for word in words])
    ends = np.cumsum([len(words) for words in counted])
    shares = [float(part.mean()) for part in np.split(split, ends[:-1])]
    return estimate_mean(shares, unit=SPLIT, over="document", bounds=(0.0, 1.0), seed=seed)


def split_as_met(split: NDArray[np.bool_], zipf: NDArray[np.float64], most: int | None = None) -> float:
    """Share of a list's words that are split, each counted as often as it is met. `most`: only of its first ones."""
    weight = 10.0 ** zipf[:most]
    return float((weight * split[:most]).sum() / weight.sum())
