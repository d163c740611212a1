"""Find features by words: in their labels, their tokens, and the text around their strongest examples.

The whole query as it stands counts most, then all its words, then some of them. Where a word is nowhere, words that
look like it count, at less (`capitols` finds `capitals`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

from interp.errors import UserError
from interp.features.read.index import Index

PLACES = ("label", "tokens", "example")  # a line of `words.txt`: its first two parts, and all others
WEIGHTS = {"label": 4.0, "tokens": 3.0, "example": 1.0}
ALIKE, ALIKE_COUNTS = 0.75, 0.4  # of difflib's ratio; what a look-alike counts
WHOLE_WORD = 1.5  # what `cap` counts as a word, against `cap` in `capital`


class Hit(NamedTuple):
    """A feature that was found, how well it fits (more is better), and the text that fits."""

    feature: int
    score: float
    where: str


def search(index: Index, query: str, limit: int | None = None) -> list[Hit]:
    """Features that fit `query`, best first, of equals the smaller number; the more of its words, the better.

    Raises UserError for a query without a letter, digit or sign.
    """
    words = query.casefold().split()
    if not words:
        raise UserError("nothing to search for came; expected some words, such as: capital cities")
    lines = index.words
    whole = " ".join(words)
    found: dict[int, tuple[float, str]] = {}
    scores = [_fits(lines, word) for word in words]
    for feature in set.union(*(set(score) for score in scores)):
        here = [score[feature] for score in scores if feature in score]
        total = sum(score for score, _ in here) * (len(here) / len(words)) ** 2
        where = max(here, key=lambda one: one[0])[1]
        if len(words) > 1 and whole in lines[feature]:
            total, where = 2 * total, _part(lines[feature], whole)[1]
        found[feature] = (total, where)
    hits = [Hit(feature, round(score, 6), where) for feature, (score, where) in found.items()]
    return sorted(hits, key=lambda hit: (-hit.score, hit.feature))[:limit]


def _fits(lines: Sequence[str], word: str) -> dict[int, tuple[float, str]]:
    """Features whose line has `word`, or where none has, a word like it: score and where."""
    exact = {i: _part(line, word) for i, line in enumerate(lines) if word in line}
    if exact:
        return exact
    known = set(re.findall(r"\w+", "\t".join(lines)))
    alike = get_close_matches(word, sorted(known), n=5, cutoff=ALIKE)
    found: dict[int, tuple[float, str]] = {}
    for other in alike:
        for i, line in enumerate(lines):
            if other in line:
                score, where = _part(line, other)
                if ALIKE_COUNTS * score > found.get(i, (0.0, ""))[0]:
                    found[i] = (ALIKE_COUNTS * score, where)
    return found


def _part(line: str, word: str) -> tuple[float, str]:
    """How much the best part of a line that has `word` counts, and its text."""
    best = (0.0, "")
    for place, text in enumerate(line.split("\t")):
        if word in text:
            weight = WEIGHTS[PLACES[min(place, 2)]]
            stands_alone = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
            score = weight * (WHOLE_WORD if stands_alone else 1.0)
            if score > best[0]:
                best = (score, text)
    return best
