"""Invented people for models trained from scratch: only facts that no text has stated show the reversal curse cleanly.

After Berglund et al. (arXiv:2309.12288, experiment 1), at the scale of a word-level vocabulary. A person is a name
and a description (the title of what they painted), each of `name_tokens` made-up words:

- 1: one word that belongs to this person alone. With tied embeddings such a word can be retrieved by the tie alone.
- 2: two words of which neither identifies the person: every first and every second word is shared by two or more
  people of the group, and only the pair is unique.

Both sides always have the same length. Made-up words have the shape consonant-vowel-consonant-vowel-"ju" ("kanoju").
None is an English word: of the 321,180 entries in the English list of wordfreq 3.1 not one has that shape.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from interp.errors import UserError
from interp.text.facts import Fact, FactSet, Templates

NameTokens = Literal[1, 2]

_SYLLABLES = tuple(c + v for c in "bdfgklmnprstvz" for v in "aeiou")
_WORDS = len(_SYLLABLES) ** 2

# Template i of one order and template i of the other have the same words before the item and as many words between
# item and answer, so that the orders differ in what is asked and not in distance. Each held-out paraphrase uses only
# words of its own order's training templates: a word-level model has no embedding for any other.
NAME_FIRST = Templates(
    training=(
        "it is said that {} is the painter of",
        "people in town know that {} made the work called",
        "the old book says {} was the one behind",
        "in the end it was {} who gave us",
    ),
    held_out="the book says that {} was the painter of",
)
DESCRIPTION_FIRST = Templates(
    training=(
        "it is said that {} is the work of",
        "people in town know that {} was a gift from",
        "the old book says {} was made once by",
        "in the end it was {} that came from",
    ),
    held_out="the book says that {} was the work of",
)


def invent(n: int, seed: int, name_tokens: NameTokens) -> list[Fact]:
    """`n` people as facts (name, description); the same arguments give the same people on every Python version."""
    return invent_groups([n], seed, name_tokens)[0]


def invent_groups(sizes: Sequence[int], seed: int, name_tokens: NameTokens) -> list[list[Fact]]:
    """Groups of people that share no made-up word, each of them as `invent` describes.

    For an experiment that trains one group in one order and another group in the other.
    """
    _check(sizes, name_tokens)
    # random() is the one method whose sequence the standard library promises to keep for a seed
    rng = random.Random(seed)
    words = iter(_shuffled([_word(i) for i in range(_WORDS)], rng))
    groups: list[list[Fact]] = []
    for n in sizes:
        names = _phrases(n, name_tokens, words, rng)
        descriptions = _phrases(n, name_tokens, words, rng)
        groups.append([Fact(name, text) for name, text in zip(names, descriptions, strict=True)])
    return groups


def people_set(people: Sequence[Fact], name: str = "invented people") -> FactSet:
    """People with the sentence templates: forward is name first, reversed description first.

    `FactSet.sentences` gives whole sentences whose words are parted by single spaces and whose end is the answer.
    """
    return FactSet(name, "name", "description", tuple(people), forward=NAME_FIRST, reversed=DESCRIPTION_FIRST)


def _check(sizes: Sequence[int], name_tokens: int) -> None:
    if name_tokens not in get_args(NameTokens):
        raise UserError(f"name_tokens is {name_tokens!r}; expected 1 or 2 words a name; choose one of them")
    for n in sizes:
        if n < 1:
            raise UserError(f"asked for {n} invented people; expected at least 1; ask for more")
        if name_tokens == 2 and 2 * _pool(n) > n:
            raise UserError(
                f"asked for {n} people with names of two shared words; expected 4 or at least 6, "
                f"because fewer cannot share every word; ask for more"
            )
    needed = sum(2 * n if name_tokens == 1 else 4 * _pool(n) for n in sizes)
    if needed > _WORDS:
        raise UserError(f"asked for {sum(sizes)} people, which takes {needed} words; expected at most {_WORDS}")


def _pool(n: int) -> int:
    """How many first words (and how many second words) `n` people share: the pairs suffice, about 4 people a word."""
    return max(math.isqrt(n - 1) + 1, n // 4)


def _phrases(n: int, length: NameTokens, words: Iterator[str], rng: random.Random) -> list[str]:
    if length == 1:
        return [next(words) for _ in range(n)]
    k = _pool(n)
    first, second = ([next(words) for _ in range(k)] for _ in range(2))
    # Each pass over the k first words moves the second words on by one: no pair comes twice in k passes, and each
    # whole pass (there are at least two) uses every word once.
    pairs = [f"{first[i % k]} {second[(i + i // k) % k]}" for i in range(n)]
    return _shuffled(pairs, rng)  # else the i-th name's pattern would foretell the i-th description's


def _shuffled(items: Sequence[str], rng: random.Random) -> list[str]:
    keys = [rng.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def _word(index: int) -> str:
    first, second = divmod(index, len(_SYLLABLES))
    return f"{_SYLLABLES[first]}{_SYLLABLES[second]}ju"
