"""Part (a): are the probabilities honest?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Control, Estimate, Figure, Finding, Lab, Row, zero
from interp.stats import calibration_error, estimate_mean, honest_errors, null_of, reliability

from . import OTHER, OWN, RIGHT, WITHIN
from .read import By, Read, over_documents

PART = "(a) Are the probabilities honest?"
BINS = 10
MISS = (
    "How far what it says of its best guess lies from how often that is right, in ten groups by what it says. The "
    "usual calibration error grows with chance: of honest probabilities, too, it is above 0. Cross-fitted, each "
    "document's misses counted in the directions in which the others miss, it shrinks with chance. The truth lies "
    "between the two: the number is their middle, and the interval reaches from the lower end of the one to the upper "
    "end of the other."
)
HONEST, OWN_HONEST = (
    Claim(
        f"On {kind}, its best guess is right as often as it says, within 5 points.",
        expects="equal",
        margin=WITHIN,
        unit=RIGHT,
        part=PART,
        answers=kind == OTHER,
        measure=MISS,
        caveat=caveat,
    )
    for kind, caveat in (
        (OTHER, "Few documents leave both measures wide apart, and the claim unclear."),
        (
            OWN,
            "The bundled sample was written by the bundled model, at a temperature and with rules of its own (see "
            "data/README.md): honest by construction, but for those.",
        ),
    )
)
BEYOND_CHANCE = Claim(
    "Its probabilities miss by more than chance would make honest ones miss.",
    expects="greater",
    unit=RIGHT,
    part=PART,
    measure="Expected calibration error: the mean distance, over ten groups, of what is said from what comes true. "
    "The null draws each guess true or false by its own probability.",
    caveat="More text makes any miss certain; how large it is, the finding before says.",
)
CLAIMS = [HONEST, OWN_HONEST, BEYOND_CHANCE]


def misses(said: Sequence[NDArray[np.float64]], right: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Cross-fitted calibration errors: each document's misses, in the directions in which the others miss.

    The usual error counts each group's miss without its sign and so grows with chance; less what honest probabilities
    give, it is too small where misses are real. Here the sign is chosen on other documents than those it is put on.
    """
    whole = np.concatenate(said)
    edges = np.unique(np.quantile(whole, np.linspace(0, 1, BINS + 1)[1:-1]))
    sums = np.zeros((len(said), len(edges) + 1))
    for i, (of_document, came_true) in enumerate(zip(said, right, strict=True)):
        np.add.at(sums[i], np.searchsorted(edges, of_document, side="right"), of_document - came_true)
    directions = np.sign(sums.sum(0) - sums)
    return (directions * sums).sum(1) / [len(of_document) for of_document in said]


def honest(lab: Lab, kind: str, texts: By, source: str) -> Finding:
    """Of the best guesses that were given 70 %, are 70 % right? `source` names the text."""
    said, right = ([getattr(read, part) for read in texts[kind]] for part in ("sure", "right"))
    crossed = estimate_mean(misses(said, right), unit=RIGHT, over="document", bounds=(-1.0, 1.0), seed=lab.seed)
    usual = usual_error(texts[kind], lab.seed)
    too_sure = over_documents(texts[kind], lambda read: float((read.sure - read.right).mean()), RIGHT, lab.seed)
    return (HONEST if kind == OTHER else OWN_HONEST).answer(
        _between(crossed, usual),
        zero(RIGHT, "honest"),
        measure=f"Text: {source}. Cross-fitted it is {crossed.mean:.2g}, by the usual measure {usual.mean:.2g}; on the "
        f"whole it says {too_sure.mean:+.2g} too much.",
        table=_reliability(texts) if kind == OTHER else [],
        figure=Figure(
            "lines",
            x="probability of the best guess",
            y="it is right (share of tokens)",
            group="text",
            caption="Ten groups of as many tokens each, by what the model says. On the line from corner to corner it "
            "is as often right as it says.",
        )
        if kind == OTHER
        else None,
    )


def _between(low: Estimate, high: Estimate) -> Estimate:
    """The middle of an estimate that is too small by chance and one too large, within the outer ends of both."""
    ends = min(low.low, high.low), max(low.high, high.high)
    return replace(low, mean=(low.mean + high.mean) / 2, low=ends[0], high=ends[1])


def usual_error(reads: Sequence[Read], seed: int) -> Estimate:
    """Expected calibration error, with an interval over documents that are drawn again."""

    def error(chosen: Sequence[int]) -> float:
        said, right = (np.concatenate([getattr(reads[i], part) for i in chosen]) for part in ("sure", "right"))
        return calibration_error(said, right)

    rng = np.random.default_rng(seed)
    draws = [error(rng.integers(0, len(reads), len(reads)).tolist()) for _ in range(200)]
    mean = error(range(len(reads)))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(mean, min(float(low), mean), max(float(high), mean), len(reads), RIGHT, "document")


def _reliability(texts: By) -> list[Row]:
    """Each kind of text in ten groups, and the line of honest probabilities."""
    said, came_true = "probability of the best guess", "it is right (share of tokens)"
    rows: list[Row] = []
    for kind, reads in texts.items():
        sure, right = (np.concatenate([getattr(read, part) for read in reads]) for part in ("sure", "right"))
        rows += [
            {said: group.said, came_true: group.came_true, "text": kind, "tokens": group.n}
            for group in reliability(sure, right)
        ]
    return rows + [{said: p, came_true: p, "text": "honest"} for p in (0.0, 1.0)]


def error_beyond_chance(lab: Lab, reads: Sequence[Read]) -> Finding:
    """The calibration error, beside the errors of worlds in which each guess comes true as often as it says."""
    honest_worlds = honest_errors(np.concatenate([read.sure for read in reads]), seed=lab.seed)
    return BEYOND_CHANCE.answer(
        usual_error(reads, lab.seed),
        Control("honest probabilities", null_of(honest_worlds, unit=RIGHT)),
    )
