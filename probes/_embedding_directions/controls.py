"""Vectors in which the directions are surely there, and vectors in which they are surely not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import Control, Estimate, Finding, Lab, Model
from interp.analysis import by_pair
from interp.stats import estimate_mean, known

from . import CONTROLS, COSINE, MARGIN, SHARE
from .analogies import ask_all, chance_gap, deals, over_families, shares
from .one_direction import ALIKE, read_alike
from .words import Vectors, Words, read_vectors

STRONG, NOISE, NEAR = 2.0, 0.1, 0.5  # lengths of the planted offset, of noise, and of a near word's distance, in words


def planted(words: Words, d: int, seed: int) -> Vectors:
    """Random vectors of length 1 or so; a pair's second word is the first plus its family's direction and a little.

    Words of no family are near the first ones, so that to a first word alone another one is nearest.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Float[Tensor, "n d"]:
        return torch.randn(n, d, generator=generator) / d**0.5

    at = draw(len(words.all))
    places = {name: words.places(name) for name in words.families}
    for pairs in places.values():
        direction = STRONG * torch.nn.functional.normalize(draw(1)[0], dim=0)
        for first, second in pairs:
            at[second] = at[first] + direction + NOISE * draw(1)[0]
    taken = {place for pairs in places.values() for pair in pairs for place in pair}
    spare = [i for i in range(len(at)) if i not in taken]
    for i, (first, _) in zip(spare, (pair for pairs in places.values() for pair in pairs), strict=False):
        at[i] = at[first] + NEAR * draw(1)[0]
    return Vectors((0,), at[None])


def _own_families(words: Words) -> Words:
    """Without pairs whose words another family has, too: a word cannot be planted in two places."""
    seen: set[str] = set()
    kept: dict[str, list[tuple[str, str]]] = {}
    for name, pairs in words.families.items():
        kept[name] = [pair for pair in pairs if not seen & set(pair)]
        seen |= {word for pair in kept[name] for word in pair}
    kept = {name: pairs for name, pairs in kept.items() if len(pairs) > 3}
    return Words(kept, words.kinds, words.rivals, words.missing, words.ids)


def _found(vectors: Vectors, words: Words, layer: int, seed: int, *, keep: bool = False) -> Estimate:
    """Share of questions answered by the offset, over pairs."""
    values = [by_pair(one.right(keep=keep)) for one in ask_all(vectors, words, layer, seed).values()]
    return estimate_mean(np.concatenate(values), unit=SHARE, over="pair", bounds=(0.0, 1.0), seed=seed)


def controls(
    lab: Lab, words: Words, vectors: Vectors, random_weights: Model, middle: int, n_perm: int
) -> Iterator[Finding]:
    """Planted directions are found; random weights, and words dealt at random, have none."""
    own = _own_families(words)
    made = planted(own, vectors.at.shape[-1], lab.seed)
    alone = shares(ask_all(made, own, 0, lab.seed), "third word alone").mean()
    for told, keep in (("", False), (", though the question's own words may be answers", True)):
        yield Finding(
            claim=f"Positive control: planted directions are found every time{told}.",
            estimate=_found(made, own, 0, lab.seed, keep=keep),
            control=Control("all of them", known(1.0, unit=SHARE, why="all of them")),
            expects="equal",
            margin=MARGIN,
            part=CONTROLS,
            measure="Share of questions answered by the offset among random vectors, in which a pair's second word is "
            f"the first one plus a direction of its family, {STRONG:g} times as long as a word, and a little noise. "
            f"To the third word alone another one was put nearer: it finds {alone:.2f}.",
        )
    nothing = known(0.0, unit=SHARE, why="none")
    dealt = _dealt_anew(words, vectors, lab.seed)
    vectors_of_random = read_vectors(random_weights, words, (0, middle))
    for name, some, layer in (
        ("with the words dealt to the families at random, nothing is found", dealt, 0),
        ("in the embedding of random weights nothing is found", vectors_of_random, 0),
        (f"after {middle} blocks of random weights nothing is found", vectors_of_random, middle),
    ):
        yield Finding(
            claim=f"Negative control: {name}.",
            estimate=_found(some, words, layer, lab.seed),
            control=Control("none", nothing),
            expects="equal",
            margin=MARGIN,
            part=CONTROLS,
            measure=f"Share of questions answered by the offset; chance is one in {len(words.all) - 3}.",
        )
    alike = read_alike(vectors_of_random, words, 0, deals(words, n_perm, lab.seed))
    yield Finding(
        claim="Negative control: the offsets of random weights are no more alike for right pairs than for wrong ones.",
        estimate=over_families(alike.gaps, lab, COSINE, -2.0),
        control=Control("second words dealt at random", chance_gap(alike.wrong, COSINE)),
        expects="equal",
        margin=ALIKE,
        part=CONTROLS,
        measure="Mean cosine of the offsets of two pairs of a family less that of wrong pairs, in the embedding before "
        "training.",
    )


def _dealt_anew(words: Words, vectors: Vectors, seed: int) -> Vectors:
    """The model's own vectors, with the words that are in families exchanged for each other and for the rivals."""
    order = torch.randperm(vectors.at.shape[1], generator=torch.Generator().manual_seed(seed))
    return Vectors(vectors.layers, vectors.at[:, order])
