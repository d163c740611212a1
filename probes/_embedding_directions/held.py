"""What can be read of a word: its kind, its form; by layer, and with few directions or many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import (
    Claim,
    Control,
    Estimate,
    Figure,
    Finding,
    Lab,
    Measured,
    Model,
    NotAsked,
    measured,
    set_beforehand,
    zero,
)
from interp.analysis import Readout, ask_analogies, by_pair, read_accuracy, read_labels
from interp.stats import estimate_mean

from . import CONTROLS, HOLDS
from .words import ARBITRARY, PREFIX, Vectors, Words, embedding_of

READ = "read rightly (share of words)"
UNIT, QUESTIONS = "share of words", "share of questions"
FOUND = "fourth word found (share of questions)"
PRINCIPAL, RANDOM = "principal ones", "random ones"
TOLD, GROWS = 0.2, 0.05  # share of words
Curve = dict[tuple[str, int], NDArray[np.float64]]  # (which directions, how many): a share for each attribute or family
ONE_EMBEDDING = (
    "These are parts of one embedding. A model trained with a smaller one would have used it otherwise: whether larger "
    "embeddings hold more is a question to models of several sizes."
)

KIND = Claim(
    "The embedding tells what kind of thing a noun is that the classifier has not seen.",
    expects="greater",
    unit=UNIT,
    margin=TOLD,
    part=HOLDS,
    measure="Share of held-out words whose kind a linear classifier reads.",
    caveat="That a classifier can read it does not say that the model does.",
)
NO_KIND = Claim(
    "Negative control: with random weights the kind is not read.",
    expects="equal",
    unit=UNIT,
    margin=TOLD,
    part=CONTROLS,
    measure="The same from the embedding of the same architecture with random weights.",
)
MORE_READ = Claim(
    "More directions hold more: with all of the embedding, more is read of a word than with a quarter of it.",
    expects="greater",
    unit=UNIT,
    margin=GROWS,
    part=HOLDS,
    answers=True,
    measure="Share of held-out words read rightly with all directions, less that with a quarter of them, those of "
    "largest variance over the other words of the vocabulary; attribute by attribute.",
    caveat=ONE_EMBEDDING,
)
MORE_FOUND = Claim(
    "With all of the embedding, the offset finds more fourth words than with a quarter of its directions.",
    expects="greater",
    unit=QUESTIONS,
    margin=GROWS,
    part=HOLDS,
    measure="Share of questions answered by the offset with all directions, less that with the quarter of largest "
    "variance; family by family.",
    caveat=ONE_EMBEDDING,
)
LARGEST = Claim(
    "A quarter of the directions, those of largest variance, holds more than a random quarter, by 5 points.",
    expects="greater",
    unit=UNIT,
    margin=GROWS,
    part=HOLDS,
    measure="Share of held-out words read rightly with the principal quarter, less that with as many random ones.",
    caveat="If not, what is read is spread over the embedding, and any part of it holds some.",
)
CLAIMS = [KIND, MORE_READ, MORE_FOUND, LARGEST]


@dataclass(frozen=True)
class Attribute:
    """What is read of some words (by name): a label each, and which words belong together and are held out at once."""

    name: str
    words: list[str]
    labels: list[str]
    groups: list[str]


def attributes_of(words: Words) -> list[Attribute]:
    """The kind of a noun, and in each family which of a pair's two words it is."""
    found = []
    if len(words.kinds) > 1:
        named = [(word, kind) for kind, some in words.kinds.items() for word in some]
        found.append(Attribute("kind of thing", [w for w, _ in named], [k for _, k in named], [w for w, _ in named]))
    for family, pairs in words.families.items():
        if family != ARBITRARY:
            both = [
                (word, side, pair[0]) for pair in pairs for side, word in zip(("first", "second"), pair, strict=True)
            ]
            found.append(Attribute(family, *(list(part) for part in zip(*both, strict=True))))
    return found


def kinds(
    lab: Lab, words: Words, layers: Sequence[int], random_weights: Model, n_perm: int
) -> tuple[Finding | NotAsked, Finding | NotAsked]:
    """The kind of a noun by layer, with labels dealt at random; and the control with random weights."""
    if len(words.kinds) < 2:
        few = f"because nouns of {len(words.kinds)} kinds are one token each in this model; 2 are needed"
        return KIND.not_asked(few), NO_KIND.not_asked(few)
    attribute = attributes_of(words)[0]
    start = lab.model.encode(PREFIX)[0]
    prompts = [[*start, words.ids[word]] for word in attribute.words]
    sites = [lab.model.residual(layer) for layer in layers]
    found = read_labels(
        lab.model,
        prompts,
        attribute.labels,
        attribute.groups,
        sites,
        n_perm=n_perm,
        random_weights=random_weights,
        seed=lab.seed,
        progress=lab.tell("reading kinds of things"),
    )
    spelling = read_accuracy(_surface(words, attribute), attribute.labels, attribute.groups, seed=lab.seed)
    listed = ", ".join(f"{len(some)} {kind}s" for kind, some in words.kinds.items())
    by_layer = Measured(("layer", "read from"), READ, _by_layer(found, layers))
    told = KIND.answer(
        _renamed(found[0].accuracy),
        Control("kinds dealt to the words at random", _renamed(found[0].shuffled)),
        measure=f"{listed}. Their length, last letter and number in the vocabulary (about their frequency) give "
        f"{spelling.mean:.2f}.",
        table=by_layer.rows(),
        figure=by_layer.lines(
            x="layer",
            chance=found[0].majority,
            caption="Kinds of held-out words, by layer; 0 is the embedding. Bands over words; for labels dealt at "
            "random, where 95 % of the deals lie.",
        ),
    )
    commonest = set_beforehand(found[0].majority, UNIT, "always the commonest kind")
    return told, NO_KIND.answer(_renamed(found[0].random_weights), commonest)


def _by_layer(found: Sequence[Readout], layers: Sequence[int]) -> dict[Any, Estimate]:
    return {
        (layer, name): at
        for layer, one in zip(layers, found, strict=True)
        for name, at in (
            ("this model", one.accuracy),
            ("kinds dealt at random", one.shuffled),
            ("random weights", one.random_weights),
        )
    }


def _renamed(at: Estimate) -> Estimate:
    """Each word is a group of its own."""
    return replace(at, unit=UNIT, over="word" if at.over == "group" else at.over)


def _surface(words: Words, attribute: Attribute) -> Float[Tensor, "word column"]:
    """What may tell without any meaning: how long a word is, how it ends, how common it is."""
    letters = sorted({word[-1] for word in attribute.words})
    rows = [
        [len(word), np.log1p(words.ids[word]), *(float(word[-1] == letter) for letter in letters)]
        for word in attribute.words
    ]
    return torch.tensor(rows)


def more_directions(lab: Lab, words: Words, vectors: Vectors) -> Iterator[Finding]:
    """How much is read, and found by offset, with few directions of the embedding, with twice as many, up to all."""
    attributes = attributes_of(words)
    d, draws = vectors.at.shape[-1], 2 if lab.quick else 3
    bases = {
        PRINCIPAL: [_principal(lab.model, words)],
        RANDOM: [_random(d, lab.seed + i) for i in range(draws)],
    }
    steps = sorted({d >> i for i in range(0, d.bit_length(), 2 if lab.quick else 1)})
    read: Curve = {}
    found: Curve = {}
    for done, k in enumerate(steps):
        for name, some in bases.items():
            kept = [vectors.of(0) @ basis[:, :k] @ basis[:, :k].T for basis in some]
            if k == d:
                kept = [vectors.of(0)]
            read[name, k] = np.mean([_read(words, attributes, one, lab.seed) for one in kept], axis=0)
            found[name, k] = np.mean([_answered(words, one) for one in kept], axis=0)
        lab.progress("reading with fewer directions", done + 1, len(steps))
    quarter = d >> 2
    named = ", ".join(a.name for a in attributes)
    yield _grows(lab, MORE_READ, named, "attribute", READ, read, d)
    yield _grows(lab, MORE_FOUND, f"among {len(words.ids)} words", "family", FOUND, found, d)
    yield LARGEST.answer(
        estimate_mean(
            read[PRINCIPAL, quarter] - read[RANDOM, quarter],
            unit=UNIT,
            over="attribute",
            bounds=(-1.0, 1.0),
            seed=lab.seed,
        ),
        zero(UNIT),
        measure=f"They are {quarter} of {d}, the random ones a mean of {draws} draws. Read are: {named}.",
    )


def _grows(lab: Lab, claim: Claim, what: str, over: str, column: str, values: Curve, d: int) -> Finding:
    """With all directions against the quarter of largest variance."""
    whole, quarter = values[PRINCIPAL, d], values[PRINCIPAL, d >> 2]
    by_size = measured(
        {(str(k), name): some for (name, k), some in values.items()},
        by=("directions kept", "directions"),
        value=column,
        over=over,
        bounds=(0.0, 1.0),
        seed=lab.seed,
    )
    return claim.answer(
        estimate_mean(whole - quarter, unit=claim.unit, over=over, bounds=(-1.0, 1.0), seed=lab.seed),
        zero(claim.unit),
        measure=f"{what}: {whole.mean():.2f} with {d} directions, {quarter.mean():.2f} with {d >> 2}.",
        table=by_size.rows(),
        figure=Figure(
            "bars",
            x="directions kept",
            y=column,
            group="directions",
            low="low",
            high="high",
            caption="By the number of directions of the embedding that are kept. Intervals over "
            f"{'families' if over == 'family' else 'attributes'}.",
        ),
    )


def _read(words: Words, attributes: Sequence[Attribute], at: Float[Tensor, "word k"], seed: int) -> list[float]:
    where = {word: i for i, word in enumerate(words.all)}
    return [
        read_accuracy(at[[where[w] for w in one.words]], one.labels, one.groups, seed=seed).mean for one in attributes
    ]


def _answered(words: Words, at: Float[Tensor, "word k"]) -> list[float]:
    return [float(by_pair(ask_analogies(at, words.places(name)).right()).mean()) for name in words.families]


def _principal(model: Model, words: Words) -> Float[Tensor, "d_model d_model"]:
    """Directions of the embedding matrix by the variance along them, largest first; tested words have no part in it."""
    embedding = embedding_of(model)
    tested = {w for some in words.families.values() for pair in some for w in pair} | {
        w for some in words.kinds.values() for w in some
    }
    others = torch.ones(len(embedding), dtype=torch.bool)
    others[[words.ids[w] for w in tested]] = False
    rest = embedding[others].double()
    rest = rest - rest.mean(0)
    return torch.linalg.eigh(rest.T @ rest)[1].flip(1).float()


def _random(d: int, seed: int) -> Float[Tensor, "d_model d_model"]:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0].float()
