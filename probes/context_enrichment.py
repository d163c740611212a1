"""Does a transformer enrich "tower" in "miniature tower" and "large tower"?

Question. The word "tower" is the same token in both phrases and begins as the same vector. A beginner's course says
that context then enriches it: on its way up the layers it takes on that the tower is small, or large. Any context moves
a vector. The question is whether it is moved along one direction that means size, the same for other nouns, other
adjectives and other sentences.

(a) The direction of size: the mean vector at the noun after large adjectives less that after small ones. It is made
from half of the adjectives, half of the nouns and three sentences, and judged on the others: of two phrases with the
same noun, does the one with the large adjective lie further along?

(b) Who carries it: the noun is kept from looking at its adjective, in all heads, in one layer, in a few heads.

(c) Words of two senses: is it the bank of a river, or of money, at the word "bank"?

What counts as yes, at the middle layer, which was named beforehand:

- pairs are told rightly more often than with adjectives dealt to two classes at random (the whole distribution of such
  deals: a single one can reach 95 %);
- adjectives that say nothing of size lie in the middle third between small and large;
- two phrases of one size are more alike than two of different sizes.

What could fool us:

- Longer adjectives would move the noun to another place: all adjectives and nouns are one token each.
- All vectors of a layer are alike (a cosine of 0.9 says little): cosines are shown beside those of other words, and
  centred.
- The last token of a phrase looks at everything. In the embedding, layer 0, the noun is the same whatever came before:
  chance, and cosine 1, must show there.
- Random weights mix context as well. They must not know a direction that holds for other adjectives.
- A method that sees nothing. A direction of known size is planted at a known layer, for adjectives that do not differ.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from interp import Control, Figure, Finding, Lab, Row, Where, probe, with_random_weights
from interp.saes import shipped_sae
from interp.stats import estimate_crossed, estimate_gap, estimate_mean, known

from ._context_enrichment import CONTROLS, COSINE, RIGHT, SIZE
from ._context_enrichment.carried import admit, carried, features
from ._context_enrichment.phrases import TEMPLATES, Vectors, Words, choose_words, read_vectors
from ._context_enrichment.senses import read_senses
from ._context_enrichment.size import Told, cosines, depths, place_between, size_direction, tell_apart

MIDDLE = 0.17  # from half-way: the middle third
PLANTED = 0.3  # of a vector's length
DEALT = 0.3  # from one half: how far adjectives that are dealt at random reach by chance


@probe()
def context_enrichment(lab: Lab, *, n_perm: int = 200) -> Iterator[Finding]:
    """Find the direction of size, judge it on held-out words, and ask who carries it.

    Args:
        n_perm: deals of the adjectives to two classes, for the null
    """
    words = choose_words(lab.model, lab.quick)
    layers, middle = depths(lab.model.n_layers, lab.quick), lab.model.n_layers // 2
    everything = (*words.sized, *words.neutral)
    vectors = read_vectors(lab, lab.model, everything, words.nouns, layers, "reading phrases")
    sized = vectors.of(words.sized)
    told = []
    for i in range(len(layers)):
        told.append(tell_apart(sized[..., i, :], n_perm, lab.seed))
        lab.progress("telling large from small", i + 1, len(layers))
    at = layers.index(middle)
    yield _generalises(told, layers, middle, words)
    yield _in_between(sized[..., at, :], vectors.of(words.neutral)[..., at, :], lab.seed)
    yield _alike(lab, vectors, words, middle)
    yield from carried(lab, admit(lab.model, words, vectors, middle))
    folder = lab.sae_folder or shipped_sae(lab.model)
    if folder is not None:
        yield from features(lab, words, folder, n_perm)
    yield read_senses(lab, lab.model, layers, n_perm)
    yield _same_at_first(told[0])
    yield _planted(lab, words, middle, n_perm)
    yield _random_weights(lab, words, middle, n_perm)


def _generalises(told: list[Told], layers: tuple[int, ...], middle: int, words: Words) -> Finding:
    rows: list[Row] = []
    for layer, one in zip(layers, told, strict=True):
        for name, at in (("held-out words", one.estimate), ("adjectives dealt at random", one.null)):
            rows.append({"layer": layer, "told": name, RIGHT: at.mean, "low": at.low, "high": at.high})
    one = told[layers.index(middle)]
    return Finding(
        claim="At the noun, one direction tells large from small for adjectives, nouns and a sentence not seen before.",
        estimate=one.estimate,
        control=Control("adjectives dealt to two classes at random", one.null),
        expects="greater",
        part=SIZE,
        answers=True,
        measure=f"Share of pairs (same noun, same sentence, a small and a large adjective) that lie the right way "
        f"round at layer {middle}; {len(words.small)} adjectives of each kind, {len(words.nouns)} nouns, "
        f"{len(TEMPLATES)} sentences. Chance is one half.",
        caveat="The direction is of adjectives that mean size; they may share more, such as how common they are.",
        table=rows,
        figure=Figure(
            "lines",
            x="layer",
            y=RIGHT,
            group="told",
            low="low",
            high="high",
            chance=0.5,
            caption="Held-out pairs told rightly, by layer; 0 is the embedding. Band: interval over adjectives and "
            "nouns; for the deals, where 95 % of them lie.",
        ),
    )


def _in_between(sized: torch.Tensor, neutral: torch.Tensor, seed: int) -> Finding:
    place = place_between(sized, neutral, size_direction(sized))
    return Finding(
        claim="Adjectives that say nothing of size lie between: in the middle third.",
        estimate=estimate_mean(place, unit="way from small to large", over="noun", seed=seed),
        control=Control("half-way", known(0.5, unit="way from small to large", why="half-way")),
        expects="equal",
        margin=MIDDLE,
        part=SIZE,
        measure="Where nouns after red, old, wooden and the like lie, with small at 0 and large at 1.",
        caveat="The direction was made from the same sized phrases; the neutral ones had no part in it.",
    )


def _alike(lab: Lab, vectors: Vectors, words: Words, middle: int) -> Finding:
    """Cosines at the noun, plain and centred, by layer."""
    rows: list[Row] = []
    gaps = np.zeros(1)
    n = len(words.small)
    for i, layer in enumerate(vectors.layers):
        at = vectors.of(words.sized)[..., i, :]
        centred = at - at.mean((0, 1, 2))
        for name, x in (("plain", at), ("centred", centred)):
            same = np.stack([cosines(x[:, :-1], x[:, 1:])[:, [k for k in range(2 * n - 1) if k != n - 1]].mean((0, 1))])
            other = cosines(x[:, :n], x[:, n:]).mean((0, 1))
            words_apart = cosines(x, x.roll(1, 2)).mean((0, 1))
            for kind, values in (
                ("small and large", other),
                ("both of one size", same[0]),
                ("another noun", words_apart),
            ):
                mean = estimate_mean(values, unit=COSINE, over="noun", seed=lab.seed)
                rows.append({"layer": layer, "vectors": name, "phrases": kind, COSINE: mean.mean})
                rows[-1] |= {"low": mean.low, "high": mean.high}
            if layer == middle and name == "centred":
                gaps = np.stack([same[0], other])
    pair = estimate_gap(*gaps, unit=COSINE, over="noun", seed=lab.seed)
    return Finding(
        claim="Two phrases of one size are more alike at the noun than two of different sizes.",
        estimate=pair.estimate,
        control=Control("a small and a large one", pair.control),
        paired=pair.gap,
        expects="greater",
        part=SIZE,
        measure=f"Cosine of the noun's vectors at layer {middle}, the mean of all phrases taken out.",
        caveat="Plain cosines are high whatever the phrases say: all vectors of a layer share a direction.",
        table=rows,
        figure=Figure(
            "lines",
            x="layer",
            y=COSINE,
            group="phrases",
            facet="vectors",
            low="low",
            high="high",
            caption="Cosines of vectors at the noun. In the embedding (layer 0) the same noun is the same vector.",
        ),
    )


def _same_at_first(told: Told) -> Finding:
    return Finding(
        claim="Self-test: in the embedding, before any context, nothing is told.",
        estimate=estimate_crossed([told.right], unit=RIGHT, over="noun", exact=True),
        control=Control("chance", known(0.5, unit=RIGHT, why="one half")),
        expects="equal",
        margin=0.01,
        part=CONTROLS,
        measure="As in part (a), at layer 0: every pair must be a tie.",
    )


def _planted(lab: Lab, words: Words, middle: int, n_perm: int) -> Finding:
    """Neutral adjectives in two arbitrary classes; half of the phrases are pushed in one direction, low down."""
    model = lab.model
    n = len(words.neutral) // 2
    adjectives = words.neutral[: 2 * n]
    generator = torch.Generator().manual_seed(lab.seed)
    push = torch.nn.functional.normalize(torch.randn(model.d_model, generator=generator), dim=0)
    low = max(1, middle // 2)
    site = f"blocks.{low - 1}.hook_resid_post"

    def pushed(activation: torch.Tensor, at: Where) -> torch.Tensor:
        last = at.mask.sum(-1) - 1
        rows = torch.arange(len(activation), device=activation.device)
        of = at.prompts.to(activation.device) // len(words.nouns)
        length = activation[rows, last].norm(dim=-1, keepdim=True) * PLANTED * (of >= n)[:, None]
        out = activation.clone()
        out[rows, last] += length * push.to(activation)
        return out

    with model.edit({site: pushed}):
        vectors = read_vectors(lab, model, adjectives, words.nouns, (middle,), "reading planted phrases")
    told = tell_apart(vectors.at[..., 0, :], n_perm, lab.seed)
    return Finding(
        claim="Positive control: a direction that was planted is found.",
        estimate=told.estimate,
        control=Control("adjectives dealt to two classes at random", told.null),
        expects="greater",
        part=CONTROLS,
        measure=f"Adjectives that do not differ in size, half of them with a random direction, {PLANTED:.0%} of the "
        f"vector's length, added at the noun at layer {low}; read at layer {middle}.",
    )


def _random_weights(lab: Lab, words: Words, middle: int, n_perm: int) -> Finding:
    random_weights = with_random_weights(lab.model, lab.seed)
    vectors = read_vectors(lab, random_weights, words.sized, words.nouns, (middle,), "reading with random weights")
    told = tell_apart(vectors.at[..., 0, :], n_perm, lab.seed)
    return Finding(
        claim="Negative control: random weights have no direction of size.",
        estimate=told.estimate,
        control=Control("chance", known(0.5, unit=RIGHT, why="one half")),
        expects="equal",
        margin=DEALT,
        part=CONTROLS,
        measure="As in part (a), for the same architecture with random weights. It mixes context too, but what it "
        "mixes in is another random vector for every adjective.",
    )
