"""Vectors in which the directions are surely there, and vectors in which they are surely not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import Claim, Control, Estimate, Finding, Lab, Model, set_beforehand, zero
from interp.analysis import by_pair
from interp.stats import estimate_mean

from . import CONTROLS, COSINE, MARGIN, SHARE
from .analogies import BASELINES, NEAREST, ask_all, best_baseline, chance_gap, deals, over_families, shares
from .one_direction import ALIKE, read_alike
from .words import Vectors, Words, read_vectors

STRONG, NOISE, NEAR = 0.7, 0.1, 0.5  # lengths of the planted offset, of noise, and of a near word's distance, in words

FOUND, FOUND_THOUGH = (
    Claim(
        f"Positive control: planted directions are found every time{though}.",
        expects="equal",
        unit=SHARE,
        margin=MARGIN,
        part=CONTROLS,
        measure="Share of questions answered by the offset among random vectors, in which a pair's second word is the "
        f"first one plus a direction of its family, {STRONG:g} times as long as a word, and a little noise. To the "
        "third word alone another one was put nearer, and to c + b one that is between the two first words.",
        subject="trained here",
    )
    for though in ("", ", though the question's own words may be answers")
)
DEALT, RANDOM, RANDOM_ABOVE = (
    Claim(
        f"Negative control: {name}, nothing is found.",
        expects="equal",
        unit=SHARE,
        margin=MARGIN,
        part=CONTROLS,
        measure="Share of questions answered by the offset.",
    )
    for name in (
        "with the words dealt to the families at random",
        "in the embedding of random weights",
        "after {middle} blocks of random weights",
    )
)
NO_WAY = Claim(
    "Negative control: the offsets of random weights are no more alike for right pairs than for wrong ones.",
    expects="equal",
    unit=COSINE,
    margin=ALIKE,
    part=CONTROLS,
    measure="Mean cosine of the offsets of two pairs of a family less that of wrong pairs, in the embedding before "
    "training.",
)
CLAIMS = [FOUND, FOUND_THOUGH, DEALT, RANDOM, RANDOM_ABOVE, NO_WAY]


def planted(words: Words, d: int, seed: int, *, strong: float = STRONG, noise: float = NOISE) -> Vectors:
    """Random vectors of length 1 or so; a pair's second word is the first plus its family's direction and a little.

    Words of no family are near the first ones, so that to a first word alone another one is nearest; and between two
    first words of a family, as far as there are such words, so that c + b, without the minus, finds those.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Float[Tensor, "n d"]:
        return torch.randn(n, d, generator=generator) / d**0.5

    at = draw(len(words.all))
    places = {name: words.places(name) for name in words.families}
    for pairs in places.values():
        direction = strong * torch.nn.functional.normalize(draw(1)[0], dim=0)
        for first, second in pairs:
            at[second] = at[first] + direction + noise * draw(1)[0]
    taken = {place for pairs in places.values() for pair in pairs for place in pair}
    spare = [i for i in range(len(at)) if i not in taken]
    near = [(first, first) for pairs in places.values() for first, _ in pairs]
    between = [both for pairs in places.values() for both in combinations((first for first, _ in pairs), 2)]
    for i, (one, other) in zip(spare, (*near, *between), strict=False):
        at[i] = at[one] + (NEAR * draw(1)[0] if one == other else at[other])
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
    asked = ask_all(made, own, 0, lab.seed)
    baselines = ", ".join(f"{NEAREST[way]} finds {shares(asked, way).mean():.2f}" for way in BASELINES)
    for claim, keep in ((FOUND, False), (FOUND_THOUGH, True)):
        yield claim.answer(
            _found(made, own, 0, lab.seed, keep=keep),
            set_beforehand(1.0, SHARE, "all of them"),
            measure=f"{baselines}. {_as_measured(lab, own, vectors)}" if claim is FOUND else "",
        )
    vectors_of_random = read_vectors(random_weights, words, (0, middle))
    for claim, some, layer, about in (
        (DEALT, _dealt_anew(vectors, lab.seed), 0, {}),
        (RANDOM, vectors_of_random, 0, {}),
        (RANDOM_ABOVE, vectors_of_random, middle, {"middle": middle}),
    ):
        yield claim.answer(
            _found(some, words, layer, lab.seed),
            zero(SHARE, "none"),
            about=about,
            measure=f"Chance is one in {len(words.all) - 3}.",
        )
    alike = read_alike(vectors_of_random, words, 0, deals(words, n_perm, lab.seed))
    yield NO_WAY.answer(
        over_families(alike.gaps, lab, COSINE, (-2.0, 2.0)),
        Control("second words dealt at random", chance_gap(alike.wrong, COSINE)),
    )


def _as_measured(lab: Lab, words: Words, vectors: Vectors) -> str:
    """How much is found where the planted direction is as short, and as noisy, as this model's own."""
    strong, noise = measured_size(words, vectors)
    weak = ask_all(planted(words, vectors.at.shape[-1], lab.seed, strong=strong, noise=noise), words, 0, lab.seed)
    return (
        f"Planted as weakly as this model's own offsets are, {strong:.2f} of a word's length with {noise:.2f} of "
        f"noise, directions are found in {shares(weak).mean():.2f} of the questions, by the best baselines in "
        f"{best_baseline(weak).mean():.2f}."
    )


def measured_size(words: Words, vectors: Vectors) -> tuple[float, float]:
    """The length of what a family's offsets share in the embedding, and of what they do not, in lengths of a word."""
    centred = vectors.of(0) - vectors.of(0).mean(0)
    shared, own = [], []
    for name in words.families:
        first, second = (centred[list(places)] for places in zip(*words.places(name), strict=True))
        offsets, length = second - first, first.norm(dim=1).mean()
        cosines = torch.nn.functional.cosine_similarity(offsets[:, None], offsets[None], dim=-1)
        cosine = float(cosines[~torch.eye(len(offsets), dtype=torch.bool)].mean().clamp(0, 1))
        size = float(offsets.norm(dim=1).mean() / length)
        shared.append(cosine**0.5 * size)
        own.append((1 - cosine) ** 0.5 * size)
    return float(np.mean(shared)), float(np.mean(own))


def _dealt_anew(vectors: Vectors, seed: int) -> Vectors:
    """The model's own vectors, with the words that are in families exchanged for each other and for the rivals."""
    order = torch.randperm(vectors.at.shape[1], generator=torch.Generator().manual_seed(seed))
    return Vectors(vectors.layers, vectors.at[:, order])
