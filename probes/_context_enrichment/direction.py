"""Part (a): one direction that tells large from small, what lies between, how alike phrases are, and is it of size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from interp import Claim, Control, Estimate, Figure, Finding, Lab, Measured, NotAsked, Row, measured, set_beforehand
from interp.stats import estimate_crossed

from . import COSINE, RIGHT, SIZE
from .phrases import TEMPLATES, Vectors, Words
from .size import (
    At,
    Floats,
    ToldApart,
    apart_along,
    dealt_likeness,
    likeness,
    noun_cosines,
    place_between,
    share_of_pairs,
    told_by,
)

APART = "share of the way apart"
WAY = "way from small to large"
MIDDLE = 0.17  # from half-way: the middle third

GENERALISES = Claim(
    "At the noun, one direction tells large from small for adjectives, nouns and a sentence not seen before.",
    expects="greater",
    unit=RIGHT,
    part=SIZE,
    answers=True,
    measure="Share of pairs (same noun, same sentence, a small and a large adjective) that lie the right way round. "
    "Chance is one half. The phrases were written for this probe.",
    caveat="The direction is of adjectives that mean size; they may share more, such as how common they are.",
)
IN_BETWEEN = Claim(
    "Adjectives that say nothing of size lie between: in the middle third.",
    expects="equal",
    margin=MIDDLE,
    unit=WAY,
    part=SIZE,
    measure="Where nouns after red, old, wooden and the like lie, with small at 0 and large at 1. The direction is of "
    "half of the sized adjectives, and the others say where its ends are. Interval over adjectives and nouns.",
    caveat="It is a claim about their mean: single ones may lie farther out, see the table.",
)
ALIKE = Claim(
    "Two phrases of one size are more alike at the noun than two of different sizes.",
    expects="greater",
    unit=COSINE,
    part=SIZE,
    measure="Cosine of the noun's vectors, the mean of all phrases taken out: of two phrases of one size less that of "
    "a small and a large one. Interval over adjectives and nouns.",
    caveat="Plain cosines are high whatever the phrases say: all vectors of a layer share a direction.",
)
SPECIFIC = Claim(
    "{pairs} lie apart along the direction of {kind}, and along that of {other} less than half as far.",
    expects="greater",
    margin=0.5,
    unit=APART,
    part=SIZE,
    answers=True,
    measure="How far apart held-out phrases lie along either direction, made from as many adjectives; 1 is how far "
    "along their own. Along the other one it counts as well if they lie the other way round.",
    caveat="Adjectives of size and of age may go together in texts, and directions may share what they share.",
)
PAIRS = {"size": "Large and small", "age": "Old and new"}
OTHER = {"size": "age", "age": "size"}
CLAIMS = [GENERALISES, IN_BETWEEN, ALIKE, SPECIFIC]


def generalises(apart: dict[int, ToldApart], middle: int, words: Words) -> Finding:
    """`apart`: by layer."""
    groups: dict[tuple[Any, ...], Estimate] = {
        (layer, name): at
        for layer, told_apart in apart.items()
        for name, at in (("held-out words", told_apart.estimate), ("adjectives dealt at random", told_apart.null))
    }
    by_layer = Measured(("layer", "told"), RIGHT, groups)
    return GENERALISES.answer(
        apart[middle].estimate,
        Control("adjectives dealt to two classes at random", apart[middle].null),
        measure=f"Layer {middle}; {len(words.small)} adjectives of each kind, {len(words.nouns)} nouns, "
        f"{len(TEMPLATES)} sentences.",
        table=by_layer.rows(),
        figure=by_layer.lines(
            x="layer",
            chance=0.5,
            caption="Held-out pairs told rightly, by layer; 0 is the embedding. Band: interval over adjectives and "
            "nouns; for the deals, where 95 % of them lie.",
        ),
    )


def in_between(sized: At, neutral: At, words: Words, direction: Finding) -> Finding | NotAsked:
    """Where there is no direction of size, nothing lies on the way from small to large."""
    if direction.verdict != "yes":
        return IN_BETWEEN.not_asked("because the first finding found no direction of size to lie on")
    place = place_between(sized, neutral)
    by_adjective = measured(
        {adjective: place[:, i] for i, adjective in enumerate(words.neutral)},
        by=("adjective",),
        value=WAY,
        over="noun",
    )
    return IN_BETWEEN.answer(
        estimate_crossed([place], unit=WAY, over="adjective", across="noun"),
        set_beforehand(0.5, WAY, "half-way"),
        table=by_adjective.rows(),
        figure=by_adjective.dots(
            y="adjective", chance=0.5, caption="Where single adjectives lie. Intervals over nouns."
        ),
    )


def alike(lab: Lab, vectors: Vectors, words: Words, middle: int, n_perm: int) -> Finding:
    """Cosines at the noun, plain and centred, by layer."""
    values = {}
    for layer in vectors.layers:
        at = vectors.of(words.sized, layer)
        for name, shown in (("plain", at), ("centred", at - at.mean((0, 1, 2)))):
            same, other = likeness(shown)
            values[layer, "small and large", name] = other.mean(0)
            values[layer, "both of one size", name] = same.mean(0)
            values[layer, "another noun", name] = noun_cosines(shown)
    by_layer = measured(
        values, by=("layer", "phrases", "vectors"), value=COSINE, over="noun", bounds=(-1, 1), seed=lab.seed
    )
    at = vectors.of(words.sized, middle)
    centred = at - at.mean((0, 1, 2))
    gap = np.subtract(*likeness(centred))
    return ALIKE.answer(
        estimate_crossed([gap.T], unit=COSINE, over="adjective", across="noun"),
        Control("adjectives dealt to two classes at random", dealt_likeness(centred, n_perm, lab.seed, COSINE)),
        measure=f"Layer {middle}.",
        table=by_layer.rows(),
        figure=replace(
            by_layer.lines(
                x="layer",
                caption="Cosines of vectors at the noun. In the embedding (layer 0) the same noun is the same vector.",
            ),
            facet="vectors",
        ),
    )


def specific(vectors: dict[str, At], layer: int) -> Iterator[Finding | NotAsked]:
    """Two directions, two kinds of adjectives: how far apart each kind lies along its own direction and the other one.

    `vectors`: at the same nouns, behind adjectives of size and of age.
    """
    ways = {(made, asked): apart_along(vectors[asked], vectors[made]) for made in PAIRS for asked in PAIRS}
    table: list[Row] = []
    for (made, asked), way in ways.items():
        told = share_of_pairs(told_by(vectors[asked], vectors[made])).mean
        own = ways[asked, asked].mean()
        table.append({"direction of": made, "of": PAIRS[asked], APART: way.mean() / own if own > 0 else None})
        table[-1][RIGHT] = told
    for kind, other in OTHER.items():
        about = {"kind": kind, "pairs": PAIRS[kind], "other": other}
        own, across = ways[kind, kind], ways[other, kind]
        if not over_both(own).low > 0:
            yield SPECIFIC.not_asked(
                f"because held-out adjectives of {kind} lie no farther apart along their own direction than by chance",
                about=about,
            )
            continue
        across = across * np.sign(across.mean()) / own.mean()
        yield SPECIFIC.answer(
            over_both(own / own.mean()),
            Control(f"along the direction of {other}", over_both(across)),
            about=about,
            paired=over_both(own / own.mean() - across),
            measure=f"Layer {layer}; {own.shape[1] // 2} adjectives of each kind, {own.shape[0]} nouns. The table has "
            "the shares of pairs told as well: where two kinds lie far apart, any direction tells many.",
            table=table,
            figure=Figure("matrix", x="direction of", y="of", z=APART, caption="How far apart, by whose direction."),
        )


def over_both(ways: Floats) -> Estimate:
    """Mean of [noun, adjective] for others of both."""
    return estimate_crossed([ways], unit=APART, over="adjective", across="noun")


def specific_not_asked(because: str) -> Iterator[NotAsked]:
    """There are too few adjectives of age."""
    for kind, other in OTHER.items():
        yield SPECIFIC.not_asked(because, about={"kind": kind, "pairs": PAIRS[kind], "other": other})
