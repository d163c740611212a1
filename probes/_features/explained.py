"""Which tokens explain where something fires: a rule of tokens, and how well it foretells firing on other text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Figure, Finding, Lab, NotAsked, Row, measured, set_beforehand, zero
from interp.features import HELD_OUT, Label, TokenRules, strip_rows, top_examples
from interp.saes import SAE
from interp.stats import estimate_mean, proportion

from . import APART, CORRELATION, DOUBLINGS, EXPLAINED, FEATURE_SHARE, FEATURES
from .units import Text, Units

NAMED = 0.5  # correlation
SHOWN, EXAMPLES, WINDOW = 4, 4, 8
JUDGED = (
    "A rule names tokens, words, the token before, or a kind of token; it is made on four fifths of the documents, and "
    "its score is the correlation with firing on the last fifth."
)
MANY_TOKENS = "A feature that no such rule fits may still have a meaning that takes more than two tokens to say."

THAN_NEURON = Claim(
    "Tokens foretell a feature's firing better than a neuron's.",
    expects="greater",
    margin=0.1,
    unit=CORRELATION,
    part=EXPLAINED,
    answers=True,
    measure=f"Each feature beside one of the neurons that is made to fire on as many tokens. {JUDGED}",
    caveat=MANY_TOKENS,
    subject="SAE",
)
THAN_RANDOM = Claim(
    "Tokens foretell a feature's firing better than that of a random direction.",
    expects="greater",
    margin=0.1,
    unit=CORRELATION,
    part=EXPLAINED,
    measure=f"Each feature beside one of the random directions that is made to fire on as many tokens. {JUDGED}",
    caveat=MANY_TOKENS,
    subject="SAE",
)
SHORT_LIST = Claim(
    "Most features fire for tokens that a short list can name.",
    expects="greater",
    unit=FEATURE_SHARE,
    part=EXPLAINED,
    answers=True,
    measure=f"The share of {FEATURES} whose rule correlates by {NAMED} or more with firing on the documents that it "
    f"was not made from, one in {HELD_OUT}. The table of the next finding has every rule.",
    caveat="A rule that is made from few firings is a poor one: with more text some features would have a better one. "
    "An index of more text (interp features build) gives each its rule and its score.",
    subject="SAE",
)
FEWER = Claim(
    "Half of a feature's activation falls on fewer kinds of token than half of a neuron's.",
    expects="greater",
    margin=0.5,
    unit=DOUBLINGS,
    part=EXPLAINED,
    measure="The fewest kinds of token that hold half of the activation; how often the feature's number must be "
    "doubled to give that of a neuron which fires as often.",
    subject="SAE",
)
CLAIMS = [THAN_NEURON, THAN_RANDOM, SHORT_LIST, FEWER]


@dataclass(frozen=True)
class Explained:
    """A unit's rule, its score, and how many kinds of token half of its activation falls on."""

    kind: str
    labels: list[Label]
    tokens: NDArray[np.int64]

    @property
    def scores(self) -> NDArray[np.float64]:
        """NaN where the documents that are kept for judging have no firing."""
        return np.array([label.score for label in self.labels])


def explain(text: Text, rules: TokenRules, units: Units) -> Explained:
    """A rule for every unit, from four fifths of the documents, judged on the fifth."""
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in units.rows])])
    labels = rules.name_all(starts, np.concatenate(units.rows).astype(np.int32))
    ids = text.facts.token
    tokens = [_for_half(ids[rows], values) for rows, values in zip(units.rows, units.values, strict=True)]
    return Explained(units.kind, labels, np.array(tokens))


def _for_half(ids: NDArray[np.integer], values: NDArray[np.float64]) -> int:
    """The least number of kinds of token that hold half of the activation."""
    mass = np.sort(np.bincount(np.unique(ids, return_inverse=True)[1], values))[::-1]
    return int(np.searchsorted(mass.cumsum(), mass.sum() / 2 * (1 - 1e-12))) + 1


def known_scores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without those that nothing could judge."""
    return scores[~np.isnan(scores)]


def which_tokens(
    lab: Lab, text: Text, chosen: Units, explained: tuple[Explained, ...], sae: SAE
) -> Iterator[Finding | NotAsked]:
    """Are features foretold by tokens, better than neurons and random directions that fire as often, and by few?"""
    features, neurons, random = explained
    kinds = {one.kind: one for one in explained}
    judged = {kind: scores for kind, one in kinds.items() if len(scores := known_scores(one.scores))}
    by_kind = measured(judged, by=("what fires",), value=CORRELATION, over="unit", seed=lab.seed)
    middle = "kinds of token with half of its activation (median)"
    table = [row | {middle: float(np.median(kinds[str(row["what fires"])].tokens))} for row in by_kind.rows()]
    dots = by_kind.dots(
        y="what fires",
        chance=0.0,
        caption="How well the best rule foretells firing on other documents. All fire equally often. Intervals over "
        "features, neurons and directions.",
    )
    for claim, other, figure in ((THAN_NEURON, neurons, dots), (THAN_RANDOM, random, None)):
        gaps = known_scores(features.scores - other.scores)
        if not len(gaps):
            yield claim.not_asked(f"because none of the {FEATURES} fires in the documents that judge its rule")
            continue
        estimate = estimate_mean(gaps, unit=CORRELATION, over="feature", bounds=APART, seed=lab.seed)
        yield claim.answer(estimate, zero(CORRELATION), measure=text.told, table=table, figure=figure)
    yield _short_list(lab, text, chosen, features, sae)
    yield _fewer_tokens(lab, features, neurons)


def _short_list(lab: Lab, text: Text, chosen: Units, features: Explained, sae: SAE) -> Finding | NotAsked:
    """Do most features fire "for a token"?"""
    scores = known_scores(features.scores)
    if not len(scores):
        return SHORT_LIST.not_asked(f"because none of the {FEATURES} fires in the documents that judge its rule")
    strongest = np.argsort(-np.array([values.max() for values in chosen.values]), kind="stable")[:SHOWN]
    numbers = [chosen.numbers[i] for i in strongest]
    examples = top_examples(sae, text.rows, numbers, lab.model, n=EXAMPLES, window=WINDOW)
    names = {chosen.numbers[i]: f"{chosen.numbers[i]}: {features.labels[i].text}" for i in strongest}
    table: list[Row] = [{**row, "feature": names[int(row["feature"])]} for row in strip_rows(examples)]
    elsewhere = [f"{np.mean(scores >= line):.0%} at {line}" for line in (NAMED / 2, NAMED * 1.5)]
    return SHORT_LIST.answer(
        proportion(scores >= NAMED, unit=FEATURE_SHARE, over="feature"),
        set_beforehand(0.5, FEATURE_SHARE, "half of them"),
        measure=text.told,
        caveat=f"With the line drawn elsewhere: {' and '.join(elsewhere)}.",
        table=table,
        figure=Figure(
            "token_strip",
            x="token",
            y="example",
            z="activation",
            facet="feature",
            caption="Of the features above, those most strongly active: their number, their rule, and their strongest "
            "tokens.",
        ),
    )


def _fewer_tokens(lab: Lab, features: Explained, neurons: Explained) -> Finding:
    """On how many kinds of token does half of the activation fall?"""
    table: list[Row] = [
        {
            "what fires": one.kind,
            "kinds of token": int(n),
            "rule": label.text,
            "correlation with firing on other documents": None if np.isnan(label.score) else label.score,
        }
        for one in (features, neurons)
        for n, label in zip(one.tokens, one.labels, strict=True)
    ]
    doubled = np.log2(neurons.tokens / features.tokens)
    return FEWER.answer(
        estimate_mean(doubled, unit=DOUBLINGS, over="feature", seed=lab.seed),
        zero(DOUBLINGS),
        measure=f"Middle numbers: {np.median(features.tokens):.0f} and {np.median(neurons.tokens):.0f}.",
        table=table,
    )
