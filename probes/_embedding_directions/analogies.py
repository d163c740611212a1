"""Questions a : b = c : ?, by the offset and by what would look the same without one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Control, Estimate, Figure, Finding, Lab, Row, measured, zero
from interp.analysis import Questions, Way, ask_analogies, by_pair
from interp.stats import estimate_mean, null_of

from . import ANALOGIES, MARGIN, SHARE
from .words import Vectors, Words, embedding_of

RIGHT = "fourth word found (share of questions)"
NEAREST: dict[Way, str] = {
    "offset": "c + b − a (the offset)",
    "third word alone": "c alone",
    "second word alone": "b alone",
    "second and third word": "c + b, without the minus",
    "random offset": "c + a random offset",
}
BASELINES: tuple[Way, ...] = ("third word alone", "second word alone", "second and third word")

OFFSET, OFFSET_ABOVE = (
    Claim(
        f"In {place}, the offset finds the fourth word more often than the best of c, b and c + b, by 10 points.",
        expects="greater",
        unit=SHARE,
        margin=MARGIN,
        part=ANALOGIES,
        answers=answers,
        measure="Share of questions a : b = c : ? in which the word nearest to c + b − a is right, less that in which "
        "the word nearest to c, to b or to c + b is, whichever is right most often in the family. The question's own "
        "words are left out, however they are spelt.",
        caveat=caveat,
    )
    for place, answers, caveat in (
        (
            "the embedding",
            True,
            "The interval is for other families of such kinds. They differ more than pairs do: see each by itself.",
        ),
        (
            "the residual stream after {middle} blocks",
            False,
            "Where a baseline is always right, no offset can do better: rivals are few, for each has to be read.",
        ),
    )
)
EXCLUDED = Claim(
    "Much of the success comes from leaving the question's own words out of the answers.",
    expects="greater",
    unit=SHARE,
    margin=MARGIN,
    part=ANALOGIES,
    measure="Share of questions answered by the offset with the three words left out, less that where they may be "
    "answers, in the embedding among all tokens.",
    caveat="Where they may be, the nearest word is often c itself: the offset is short beside what parts words.",
)
RIGHT_PAIR = Claim(
    "The offset of a right pair finds it more often than that of a wrong one.",
    expects="greater",
    unit=SHARE,
    margin=MARGIN,
    part=ANALOGIES,
    measure="Share of questions answered by the offset in the embedding, among the words of the list and others, less "
    "that in deals in which the example is a first word and another pair's second word, as in man : princess = king : "
    "?, family by family.",
    caveat="A wrong pair still has a first and a second word, and so what all these share.",
)
CLAIMS = [OFFSET, OFFSET_ABOVE, EXCLUDED, RIGHT_PAIR]

Floats = NDArray[np.float64]
Asked = dict[str, Questions]  # by family
Orders = list[list[list[int]]]


def ask_all(vectors: Vectors, words: Words, layer: int, seed: int) -> Asked:
    """The questions of every family, with a layer's vectors."""
    return {
        name: ask_analogies(vectors.of(layer), words.places(name), seed=seed + i)
        for i, name in enumerate(words.families)
    }


def shares(asked: Asked, way: Way = "offset", *, keep: bool = False) -> Floats:
    """Share of questions answered rightly, by family."""
    return np.array([by_pair(questions.right(way, keep=keep)).mean() for questions in asked.values()])


def best_baseline(asked: Asked) -> Floats:
    """Share of questions answered by the best of the ways without an offset, by family."""
    return np.max([shares(asked, way) for way in BASELINES], axis=0)


def deals(words: Words, n: int, seed: int) -> Orders:
    """`n` times: for each family, an order in which its second words are dealt to the first ones."""
    rng = np.random.default_rng(seed)
    return [[rng.permutation(len(pairs)).tolist() for pairs in words.families.values()] for _ in range(n)]


def wrong_shares(asked: Asked, orders: Orders) -> Floats:
    """Share of questions answered by the offset of wrong pairs [deal, family]."""
    return np.array(
        [[by_pair(q.dealt(order)).mean() for q, order in zip(asked.values(), deal, strict=True)] for deal in orders]
    )


def chance_gap(wrong: Floats, unit: str) -> Estimate:
    """How far a deal's mean over families is from that of all deals: the null of a gap to wrong pairs."""
    return null_of((wrong - wrong.mean(0)).mean(1), unit=unit)


def over_families(values: Floats, lab: Lab, unit: str, bounds: tuple[float, float] = (-1.0, 1.0)) -> Estimate:
    """The mean over families, with its interval; `bounds` are those of a difference of two shares by default."""
    return estimate_mean(values, unit=unit, over="family", bounds=bounds, seed=lab.seed)


def analogies(lab: Lab, words: Words, vectors: Vectors, middle: int, n_perm: int) -> Iterator[Finding]:
    """The offset against its baselines, in the embedding and in the middle."""
    asked = {layer: ask_all(vectors, words, layer, lab.seed) for layer in vectors.layers}
    among_all = _ask_among_all(lab, words)
    some = f"{len(words.ids)} words"
    places = {
        "embedding, every token": among_all,
        f"embedding, {some}": asked[0],
        f"after {middle} blocks, {some}": asked[middle],
    }
    for claim, one, picked, about in (
        (OFFSET, among_all, "all tokens of the vocabulary", {}),
        (OFFSET_ABOVE, asked[middle], some, {"middle": middle}),
    ):
        offset, best = shares(one), best_baseline(one)
        means = ", ".join(f"{NEAREST[way]} {shares(one, way).mean():.2f}" for way in NEAREST)
        yield claim.answer(
            over_families(offset - best, lab, SHARE),
            zero(SHARE),
            about=about,
            measure=f"Among {picked}: {offset.mean():.2f}, the best baselines {best.mean():.2f}. By way: {means}. "
            f"{words.told}",
            table=_ways(lab, places) if claim is OFFSET else _families(lab, words, places),
            figure=_WAYS if claim is OFFSET else _FAMILIES,
        )
    yield _kept(lab, among_all)
    yield _dealt(lab, asked, deals(words, n_perm, lab.seed))


def _ask_among_all(lab: Lab, words: Words) -> Asked:
    """The same questions with every token of the vocabulary to pick from; " King" and "king" are one word."""
    everything = embedding_of(lab.model)
    texts = lab.model.vocabulary[: len(everything)]
    spelt = [text.strip().casefold() or text for text in texts]
    return {
        name: ask_analogies(
            everything[: len(spelt)], [(words.ids[a], words.ids[b]) for a, b in pairs], words=spelt, seed=lab.seed
        )
        for name, pairs in words.families.items()
    }


def _ways(lab: Lab, places: dict[str, Asked]) -> list[Row]:
    """Every way of asking, with the question's words and, where one of them is not sure to be nearest, without."""
    rows: list[Row] = []
    for place, one in places.items():
        for way, name in NEAREST.items():
            for told, keep in (("left out", False), ("may be the answer", True)):
                if not (keep and way.endswith("alone")):
                    at = over_families(shares(one, way, keep=keep), lab, SHARE, (0.0, 1.0))
                    rows.append({"vectors": place, "nearest to": name, "the question's words": told, RIGHT: at.mean})
                    rows[-1] |= {"low": at.low, "high": at.high}
    return rows


_WAYS = Figure(
    "interval_dots",
    x=RIGHT,
    y="nearest to",
    group="the question's words",
    facet="vectors",
    low="low",
    high="high",
    caption="How often the fourth word of a : b = c : ? is found, by the offset and by what is no offset. Intervals "
    "over families. To c alone nothing is nearer than c, if it may be the answer.",
)


def _families(lab: Lab, words: Words, places: dict[str, Asked]) -> list[Row]:
    rows: list[Row] = []
    for place, one in places.items():
        for name in words.families:
            for way in ("offset", *BASELINES):
                values = by_pair(one[name].right(way))
                at = estimate_mean(values, unit=SHARE, over="pair", bounds=(0.0, 1.0), seed=lab.seed)
                rows.append({"vectors": place, "family": name, "nearest to": NEAREST[way], "pairs": len(values)})
                rows[-1] |= {RIGHT: at.mean, "low": at.low, "high": at.high}
    return rows


_FAMILIES = Figure(
    "interval_dots",
    x=RIGHT,
    y="family",
    group="nearest to",
    facet="vectors",
    low="low",
    high="high",
    caption="The same family by family, the question's words left out. Intervals over pairs.",
)


def _kept(lab: Lab, asked: Asked) -> Finding:
    without, kept = (shares(asked, keep=keep) for keep in (False, True))
    return EXCLUDED.answer(
        over_families(without - kept, lab, SHARE),
        zero(SHARE),
        measure=f"Left out: {without.mean():.2f}; not left out: {kept.mean():.2f}.",
    )


def _dealt(lab: Lab, asked: dict[int, Asked], orders: Orders) -> Finding:
    """Wrong pairings keep what all second words share, and lose what belongs to the pair."""
    wrong = {layer: wrong_shares(one, orders) for layer, one in asked.items()}
    by_layer = measured(
        {
            (layer, name): values
            for layer, one in asked.items()
            for name, values in (
                (NEAREST["offset"], shares(one)),
                ("the best of c, b and c + b", best_baseline(one)),
                ("c + an offset of a wrong pair", wrong[layer].mean(0)),
            )
        },
        by=("layer", "nearest to"),
        value=RIGHT,
        over="family",
        bounds=(0.0, 1.0),
        seed=lab.seed,
    )
    return RIGHT_PAIR.answer(
        over_families(shares(asked[0]) - wrong[0].mean(0), lab, SHARE),
        Control("second words dealt to the examples at random", chance_gap(wrong[0], SHARE)),
        measure=f"In {len(orders)} deals it is {wrong[0].mean():.2f}.",
        table=by_layer.rows(),
        figure=by_layer.lines(
            x="layer",
            caption="By layer; 0 is the embedding. The question's words are left out. Bands over families.",
        ),
    )
