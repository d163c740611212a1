"""Part (a): are the probabilities honest?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp import Control, Estimate, Figure, Finding, Lab, Row
from interp.stats import calibration_error, honest_errors, known, null_of, reliability

from . import OTHER, RIGHT, WITHIN
from .read import ONE, By, Read, over_documents


def too_sure(read: Read, temperature: int = ONE) -> float:
    """What it says of its best guesses less how often they are right."""
    return float((read.sure_at[temperature] - read.right).mean())


def honest(lab: Lab, kind: str, texts: By) -> Finding:
    """Of the best guesses that were given 70 %, are 70 % right?"""
    rows: list[Row] = []
    for name, some in texts.items():
        said, right = (np.concatenate([getattr(one, part) for one in some]) for part in ("sure", "right"))
        for one in reliability(said, right):
            rows.append({"probability of the best guess": one.said, "it is right (share of tokens)": one.came_true})
            rows[-1] |= {"text": name, "tokens": one.n}
    rows += [
        {"probability of the best guess": p, "it is right (share of tokens)": p, "text": "honest"} for p in (0.0, 1.0)
    ]
    return Finding(
        claim=f"On {kind}, its best guess is right as often as it says, within 5 points.",
        estimate=over_documents(texts[kind], too_sure, RIGHT, lab.seed, bounds=(-1.0, 1.0)),
        control=Control("honest", known(0.0, unit=RIGHT, why="as often as it says")),
        expects="equal",
        margin=WITHIN,
        part="(a) Are the probabilities honest?",
        answers=kind == OTHER,
        measure="Mean probability of the best guess less the share of tokens for which it is right: above 0 is too "
        "sure, below 0 too modest.",
        caveat="Misses in both directions cancel in a mean: the picture shows each probability by itself."
        if kind == OTHER
        else "The bundled sample was written by the bundled model, at a temperature and with rules of its own (see "
        "data/README.md): honest by construction, but for those.",
        table=rows if kind == OTHER else [],
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


def error_beyond_chance(lab: Lab, some: Sequence[Read]) -> Finding:
    """The calibration error, beside the errors of worlds in which each guess comes true as often as it says."""

    def error(chosen: Sequence[int]) -> float:
        said, right = (np.concatenate([getattr(some[i], part) for i in chosen]) for part in ("sure", "right"))
        return calibration_error(said, right)

    rng = np.random.default_rng(lab.seed)
    draws = [error(rng.integers(0, len(some), len(some)).tolist()) for _ in range(200)]
    mean = error(range(len(some)))
    low, high = np.quantile(draws, [0.025, 0.975])
    honest = honest_errors(np.concatenate([one.sure for one in some]), seed=lab.seed)
    return Finding(
        claim="Its probabilities miss by more than chance would make honest ones miss.",
        estimate=Estimate(mean, min(float(low), mean), max(float(high), mean), len(some), RIGHT, "document"),
        control=Control("honest probabilities", null_of(honest, unit=RIGHT)),
        expects="greater",
        part="(a) Are the probabilities honest?",
        measure="Expected calibration error: the mean distance, over ten groups, of what is said from what comes true. "
        "The null draws each guess true or false by its own probability.",
        caveat="More text makes any miss certain; how large it is, the finding before says.",
    )
