"""Words in pairs, words of four kinds, and their vectors. No word was chosen or dropped by what a model makes of it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp import Model, UserError, data
from interp.analysis import ReadAhead

PREFIX = "The word"
FAMILIES = {  # the categories of Mikolov et al. (their two of capitals are one here), with words of everyday
    "gender": "man woman, king queen, boy girl, father mother, brother sister, son daughter, husband wife, uncle aunt, "
    "prince princess, actor actress",
    "plural": "dog dogs, car cars, house houses, book books, tree trees, river rivers, student students, "
    "window windows, letter letters, teacher teachers",
    "past tense": "walk walked, talk talked, look looked, ask asked, help helped, call called, open opened, "
    "want wanted, play played, turn turned",
    "third person": "run runs, speak speaks, eat eats, write writes, sing sings, think thinks, grow grows, see sees, "
    "say says, know knows",
    "participle": "go going, read reading, sleep sleeping, sit sitting, dance dancing, swim swimming, fly flying, "
    "listen listening, decide deciding, jump jumping",
    "comparative": "big bigger, small smaller, fast faster, slow slower, strong stronger, weak weaker, high higher, "
    "low lower, cheap cheaper, long longer",
    "superlative": "big biggest, small smallest, fast fastest, great greatest, high highest, low lowest, "
    "large largest, strong strongest, old oldest, young youngest",
    "adverb": "quick quickly, slow slowly, quiet quietly, clear clearly, usual usually, rare rarely, "
    "complete completely, sudden suddenly, serious seriously, safe safely",
    "capital": "France Paris, Germany Berlin, Italy Rome, Spain Madrid, Japan Tokyo, Russia Moscow, China Beijing, "
    "Egypt Cairo, Greece Athens, England London",
    "nationality": "France French, Germany German, Italy Italian, Spain Spanish, Japan Japanese, Russia Russian, "
    "China Chinese, Egypt Egyptian, Greece Greek, Sweden Swedish",
    "currency": "Japan yen, Europe euro, America dollar, Britain pound, Russia ruble, India rupee, Mexico peso, "
    "China yuan",
    "city's state": "Chicago Illinois, Houston Texas, Phoenix Arizona, Miami Florida, Detroit Michigan, "
    "Seattle Washington, Denver Colorado, Boston Massachusetts, Atlanta Georgia, Portland Oregon",
    "opposite": "hot cold, good bad, light dark, old new, rich poor, hard soft, up down, early late, happy sad, "
    "left right",
}
ARBITRARY = "opposite"  # which word of such a pair is the first says nothing
KINDS = {
    "animal": "dog cat horse cow pig sheep goat bird fish lion tiger bear wolf fox rabbit mouse rat snake frog duck "
    "elephant monkey whale eagle",
    "tool": "hammer knife chisel drill axe shovel rope ladder brush needle nail screw wrench scissors broom rake pen "
    "pencil ruler tape wheel pump lamp bucket",
    "food": "bread cheese butter rice soup cake apple banana orange potato tomato onion carrot meat beef sugar salt "
    "honey chocolate pizza salad sausage cookie lemon",
    "place": "city village school church hospital museum airport station library restaurant theater park forest "
    "desert beach island mountain river valley farm castle prison harbor street",
}
LEAST_PAIRS, LEAST_FAMILIES, LEAST_OF_A_KIND = 4, 3, 5  # of one token each
Pair = tuple[str, str]


@dataclass(frozen=True)
class Words:
    """What is one token in this model. `rivals`: other words that an answer is picked from.

    `families` of too few pairs, and `kinds` of too few words, are left out; `missing` are the words that are split.
    """

    families: dict[str, list[Pair]]
    kinds: dict[str, list[str]]
    rivals: list[str]
    missing: list[str]
    ids: dict[str, int]

    @property
    def all(self) -> list[str]:
        """Every word once: those that are asked for, and then the rivals."""
        return list(self.ids)

    def places(self, family: str) -> list[tuple[int, int]]:
        """The pairs of a family as places in `all`."""
        where = {word: i for i, word in enumerate(self.ids)}
        return [(where[a], where[b]) for a, b in self.families[family]]

    @property
    def told(self) -> str:
        """What of the list is asked, in a sentence."""
        asked = sum(map(len, self.families.values()))
        left = f"; left out, for the tokenizer splits a word: {', '.join(self.missing)}" if self.missing else ""
        return f"{asked} pairs in {len(self.families)} families{left}."


@dataclass(frozen=True)
class Vectors:
    """`at` [layer, word, d_model]: a word's vector; layer 0 is the embedding matrix, l the stream after l blocks."""

    layers: tuple[int, ...]
    at: Float[Tensor, "layer word d_model"]

    def of(self, layer: int) -> Float[Tensor, "word d_model"]:
        """Those of one layer."""
        return self.at[self.layers.index(layer)]


def choose_words(model: Model, quick: bool = False) -> Words:
    """The words that are one token each behind the prefix; with half of the rivals where it must be quick.

    Raises UserError where too few pairs are left.
    """
    pairs = {name: [_pair(text) for text in told.split(", ")] for name, told in FAMILIES.items()}
    kinds = {name: told.split() for name, told in KINDS.items()}
    asked = [*(w for some in pairs.values() for pair in some for w in pair), *(w for s in kinds.values() for w in s)]
    ids = _one_token(model, asked)
    families = {name: [p for p in some if p[0] in ids and p[1] in ids] for name, some in pairs.items()}
    families = {name: some for name, some in families.items() if len(some) >= LEAST_PAIRS}
    if len(families) < LEAST_FAMILIES:
        raise UserError(
            f"{len(families)} of {len(FAMILIES)} families have {LEAST_PAIRS} pairs of words that are one token each in "
            f"this model; expected {LEAST_FAMILIES} or more; use a model with a larger vocabulary"
        )
    kinds = {name: [w for w in some if w in ids] for name, some in kinds.items()}
    kinds = {name: some for name, some in kinds.items() if len(some) >= LEAST_OF_A_KIND}
    with data("words/english.csv").open(encoding="utf-8", newline="") as file:
        rivals = [row["word"] for row in csv.DictReader(file) if row["word"] not in ids][:: 2 if quick else 1]
    others = _one_token(model, rivals)
    missing = [w for w in dict.fromkeys(asked) if w not in ids]
    return Words(families, kinds, list(others), missing, ids | others)


def read_vectors(model: Model, words: Words, layers: Iterable[int]) -> Vectors:
    """The vectors of all words: of the embedding matrix, and of the residual stream at the word behind the prefix."""
    chosen = tuple(layers)
    deep = [layer for layer in chosen if layer]
    sites = [model.residual(layer) for layer in deep]
    start = model.encode(PREFIX)[0]
    behind = ReadAhead(model, [[*start, i] for i in words.ids.values()], batch_size=128)
    acts = behind.capture(sites) if deep else {}
    found = {layer: acts[site].float().cpu() for layer, site in zip(deep, sites, strict=True)}
    embedding = embedding_of(model)[list(words.ids.values())]
    return Vectors(chosen, torch.stack([found.get(layer, embedding) for layer in chosen]))


def embedding_of(model: Model) -> Float[Tensor, "d_vocab d_model"]:
    """The embedding matrix."""
    return next(model.hf.get_input_embeddings().parameters()).detach().float().cpu()


def depths(n_layers: int, quick: bool) -> tuple[tuple[int, ...], int]:
    """Layers to look at, and the middle one: it, 0 (the embedding) and the last are always among them."""
    middle, step = max(1, n_layers // 2), max(1, n_layers // (2 if quick else 10))
    return tuple(sorted({*range(0, n_layers, step), middle, n_layers})), middle


def _pair(text: str) -> Pair:
    first, second = text.split()
    return first, second


def _one_token(model: Model, words: Sequence[str]) -> dict[str, int]:
    """The token of each word that is one behind the prefix."""
    found: dict[str, int] = {}
    try:
        start = model.encode(PREFIX)[0]
    except UserError:  # a vocabulary of whole words that lacks these
        return {}
    for word in dict.fromkeys(words):
        try:
            ids = model.encode(f"{PREFIX} {word}")[0]
        except UserError:  # or this one
            continue
        if ids[:-1] == start:
            found[word] = ids[-1]
    return found
