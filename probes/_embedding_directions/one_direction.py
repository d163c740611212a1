"""Do the pairs of a family differ in one direction? Cosines of their offsets, beside those of wrong pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Control, Figure, Finding, Lab, Row, measured
from interp.analysis import alike, every_cosine
from interp.stats import estimate_mean

from . import COSINE, OFFSETS
from .analogies import Orders, chance_gap, deals, over_families
from .words import Vectors, Words

ALIKE = 0.05  # of the cosine
TWO = "cosine of two offsets"
Floats = NDArray[np.float64]

ONE_WAY, ONE_WAY_ABOVE = (
    Claim(
        f"In {place}, the pairs of a family differ in one direction, more than wrong pairs do.",
        expects="greater",
        unit=COSINE,
        margin=ALIKE,
        part=OFFSETS,
        answers=answers,
        measure="Mean cosine of the offsets of two pairs of a family, king to queen and man to woman (1 would be one "
        "direction and nothing else), less that of wrong pairs, family by family.",
        caveat="Wrong pairs, too, go from a first word to a second one, so that their cosine is above 0. Offsets with "
        "words of one pair are not compared.",
    )
    for place, answers in (("the embedding", True), ("the residual stream after {middle} blocks", False))
)
CLAIMS = [ONE_WAY, ONE_WAY_ABOVE]


@dataclass(frozen=True)
class Alike:
    """How alike a family's offsets are: `right` [family][pair], and those of wrong pairs, `wrong` [deal, family]."""

    right: list[Floats]
    wrong: Floats

    @property
    def means(self) -> Floats:
        """Of right pairs, by family."""
        return np.array([one.mean() for one in self.right])

    @property
    def gaps(self) -> Floats:
        """Right pairs less wrong ones, by family."""
        return self.means - self.wrong.mean(0)


def read_alike(vectors: Vectors, words: Words, layer: int, orders: Orders) -> Alike:
    """Cosines of offsets at a layer, as paired and as dealt."""
    tables = [every_cosine(vectors.of(layer), words.places(name)) for name in words.families]
    wrong = [[np.nanmean(alike(t, order)) for t, order in zip(tables, deal, strict=True)] for deal in orders]
    return Alike([np.nanmean(alike(table), axis=0) for table in tables], np.array(wrong, np.float64))


def one_direction(lab: Lab, words: Words, vectors: Vectors, middle: int, n_perm: int) -> Iterator[Finding]:
    """In the embedding and in the middle."""
    orders = deals(words, n_perm, lab.seed + 1)
    found = {layer: read_alike(vectors, words, layer, orders) for layer in vectors.layers}
    by_layer = measured(
        {
            (layer, name): values
            for layer, one in found.items()
            for name, values in (("right", one.means), ("wrong", one.wrong.mean(0)))
        },
        by=("layer", "pairs"),
        value=TWO,
        over="family",
        bounds=(-1.0, 1.0),
        seed=lab.seed,
    )
    for claim, one, about in (
        (ONE_WAY, found[0], {}),
        (ONE_WAY_ABOVE, found[middle], {"middle": middle}),
    ):
        first = claim is ONE_WAY
        yield claim.answer(
            over_families(one.gaps, lab, COSINE, (-2.0, 2.0)),
            Control("second words dealt to the first ones at random", chance_gap(one.wrong, COSINE)),
            about=about,
            measure=f"Of right pairs it is {one.means.mean():.2f}, of wrong ones {one.wrong.mean():.2f}.",
            table=by_layer.rows() if first else _by_family(lab, words, {0: found[0], middle: one}),
            figure=by_layer.lines(
                x="layer",
                caption="How alike the offsets of a family's pairs are, by layer; 0 is the embedding. Bands over "
                "families.",
            )
            if first
            else _FAMILIES,
        )


def _by_family(lab: Lab, words: Words, found: dict[int, Alike]) -> list[Row]:
    rows: list[Row] = []
    for layer, one in found.items():
        for i, name in enumerate(words.families):
            at = estimate_mean(one.right[i], unit=COSINE, over="pair", bounds=(-1.0, 1.0), seed=lab.seed)
            chance = np.quantile(one.wrong[:, i], [0.025, 0.975])
            place = f"after {layer} blocks" if layer else "the embedding"
            rows.append({"vectors": place, "family": name, "pairs": "right", TWO: at.mean})
            rows[-1] |= {"low": at.low, "high": at.high}
            rows.append({"vectors": place, "family": name, "pairs": "wrong", TWO: float(one.wrong[:, i].mean())})
            rows[-1] |= {"low": float(chance[0]), "high": float(chance[1])}
    return rows


_FAMILIES = Figure(
    "interval_dots",
    x=TWO,
    y="family",
    group="pairs",
    facet="vectors",
    low="low",
    high="high",
    caption="The same family by family. Intervals over pairs; for wrong pairs, where 95 % of the deals lie.",
)
