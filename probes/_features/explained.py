"""Which tokens explain where something fires: a rule of tokens, and how well it foretells firing on other text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp import Control, Figure, Finding, Lab, Row
from interp.features import HELD_OUT, Label, TokenRules, strip_rows, top_examples
from interp.saes import SAE
from interp.stats import estimate_mean, known, proportion

from . import CORRELATION, DOUBLINGS, EXPLAINED, FEATURES, NEURONS
from .units import Text, Units

BETTER, FOUND = 0.1, 0.5  # correlation
FEWER = 0.5  # doublings of the number of tokens
SHOWN, EXAMPLES, WINDOW = 4, 4, 8
DOTS = Figure("interval_dots", x=CORRELATION, y="what fires", low="low", high="high", chance=0.0,
              caption="How well the best rule foretells firing on other documents. All fire equally often. Intervals "
              "over features, neurons and directions.")  # fmt: skip


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


def paired(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences, where both are known."""
    gaps = ours - theirs
    return gaps[~np.isnan(gaps)]


def summary(kinds: list[Explained], seed: int) -> list[Row]:
    """A row a kind: the mean score with its interval, and the middle number of tokens."""
    rows: list[Row] = []
    for one in kinds:
        at = estimate_mean(one.scores[~np.isnan(one.scores)], unit=CORRELATION, over="unit", seed=seed)
        rows.append({"what fires": one.kind, CORRELATION: at.mean, "low": at.low, "high": at.high})
        rows[-1]["kinds of token with half of its activation (median)"] = float(np.median(one.tokens))
    return rows


def better(ours: Explained, other: Explained, table: list[Row], lab: Lab, *, drawn: bool) -> Finding:
    """Is a feature's firing foretold better than that of something else that fires as often?"""
    one = {"neurons": "a neuron's", "random directions": "that of a random direction"}[other.kind]
    return Finding(
        claim=f"Tokens foretell a feature's firing better than {one}.",
        estimate=estimate_mean(paired(ours.scores, other.scores), unit=CORRELATION, over="feature", seed=lab.seed),
        control=Control("no difference", known(0.0, unit=CORRELATION, why="equally well")),
        expects="greater",
        margin=BETTER,
        part=EXPLAINED,
        answers=other.kind == NEURONS,
        measure=f"Each feature beside one of the {other.kind} that is made to fire on as many tokens. A rule names "
        "tokens, words, the token before, or a kind of token; it is made on four fifths of the documents, and its "
        "score is the correlation with firing on the last fifth.",
        caveat="A feature that no such rule fits may still have a meaning that takes more than two tokens to say.",
        table=table,
        figure=DOTS if drawn else None,
    )


def fewer_tokens(ours: Explained, neurons: Explained, lab: Lab) -> Finding:
    """On how many kinds of token does half of the activation fall?"""
    table: list[Row] = [
        {
            "what fires": one.kind,
            "kinds of token": int(n),
            "rule": label.text,
            "correlation with firing on other documents": None if np.isnan(label.score) else label.score,
        }
        for one in (ours, neurons)
        for n, label in zip(one.tokens, one.labels, strict=True)
    ]
    return Finding(
        claim="Half of a feature's activation falls on fewer kinds of token than half of a neuron's.",
        estimate=estimate_mean(np.log2(neurons.tokens / ours.tokens), unit=DOUBLINGS, over="feature", seed=lab.seed),
        control=Control("no difference", known(0.0, unit=DOUBLINGS, why="as many")),
        expects="greater",
        margin=FEWER,
        part=EXPLAINED,
        measure="The fewest kinds of token that hold half of the activation; how often the feature's number must be "
        f"doubled to give that of a neuron which fires as often. Middle numbers: {np.median(ours.tokens):.0f} and "
        f"{np.median(neurons.tokens):.0f}.",
        table=table,
    )


def has_rule(text: Text, ours: Explained, units: Units, sae: SAE, lab: Lab) -> Finding:
    """Do most features fire "for a token"?"""
    known_scores = ours.scores[~np.isnan(ours.scores)]
    shown = np.argsort(-np.array([values.max() for values in units.values]), kind="stable")[:SHOWN]
    examples = top_examples(sae, text.rows, [units.numbers[i] for i in shown], lab.model, n=EXAMPLES, window=WINDOW)
    names = {units.numbers[i]: f"{units.numbers[i]}: {ours.labels[i].text}" for i in shown}
    table: list[Row] = [{**row, "feature": names[int(row["feature"])]} for row in strip_rows(examples)]
    return Finding(
        claim="Most features fire for tokens that a short list can name.",
        estimate=proportion(known_scores >= FOUND, unit="share of features", over="feature"),
        control=Control("half of them", known(0.5, unit="share of features", why="set beforehand")),
        expects="greater",
        part=EXPLAINED,
        answers=True,
        measure=f"The share of {FEATURES} whose rule correlates by {FOUND} or more with firing on the documents "
        f"that it was not made from, one in {HELD_OUT} ({len(text.kept):,} tokens were read in all). The table of the "
        "next finding has every rule.",
        caveat="A rule that is made from few firings is a poor one: with more text some features would have a better "
        "one. An index of more text (interp features build) gives each its rule and its score.",
        table=table,
        figure=Figure(
            "token_strip", x="token", y="example", z="activation", facet="feature",
            caption="Of the features above, those most strongly active: their number, their rule, and their strongest "
            "tokens.",
        ),
    )  # fmt: skip
