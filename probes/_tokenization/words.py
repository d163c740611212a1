"""Words and the pieces that a tokenizer cuts them into."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from interp import Estimate, Model, UserError, data
from interp.stats import estimate_mean

from . import SPLIT

BANDS = ((6, "over 1,000 in a million"), (5, "100 to 1,000"), (4, "10 to 100"), (3, "1 to 10"), (2, "under 1"))
FREQUENT, RARE = 5.0, 4.0  # Zipf: from, below
LEAST = 4  # documents, for an interval over them
FORMS: dict[str, Callable[[str], str]] = {
    "in a sentence": lambda w: f" {w}",
    "at the start": lambda w: w,
    "capital letter": lambda w: f" {w.capitalize()}",
    "all capitals": lambda w: f" {w.upper()}",
}


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


def count_pieces(model: Model, texts: Sequence[str]) -> list[int]:
    """Tokens of each text; a leading space is written behind a word, as it stands in a sentence."""
    spaced = [text for text in texts if text.startswith(" ")]
    bare = [text for text in texts if not text.startswith(" ")]
    start = len(model.tokenizer("a", add_special_tokens=False).input_ids)
    counts = {}
    for some, lead, less in ((spaced, "a", start), (bare, "", 0)):
        if some:
            ids = model.tokenizer([lead + text for text in some], add_special_tokens=False).input_ids
            counts |= {text: len(row) - less for text, row in zip(some, ids, strict=True)}
    return [counts[text] for text in texts]


def is_split(model: Model, words: Sequence[str], form: str = "in a sentence") -> np.ndarray:
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


def split_in_text(model: Model, documents: Sequence[str], seed: int) -> Estimate:
    """Share of the running words of each document that are split, over documents.

    Raises UserError where fewer than four documents have words enough.
    """
    shares = []
    for text in documents:
        words = re.findall(r"[A-Za-z]+", text)
        if len(words) >= 20:
            shares.append(float(is_split(model, words).mean()))
    if len(shares) < LEAST:
        raise UserError(
            f"{len(shares)} documents of the corpus have 20 words in Latin letters or more; "
            f"expected {LEAST} such documents or more; use more text"
        )
    return estimate_mean(shares, unit="share of running words", over="document", bounds=(0.0, 1.0), seed=seed)
