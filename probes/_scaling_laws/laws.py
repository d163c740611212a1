"""What is fitted to the grid, and where the fit must not be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from interp import Claim, Control, Estimate, Figure, Finding, Lab, NotAsked, Row, set_beforehand, zero
from interp.stats import EXPONENT as UNIT
from interp.stats import (
    PowerLaw,
    crossfitted_frontier,
    estimate_mean,
    exponent_gap,
    fit_floor,
    fit_power_law,
    foretold_miss,
    lower_envelope,
)

from . import LOSS, NATS
from .grid import Point

Of = Literal["parameters", "text", "compute"]
KAPLAN: dict[Of, float] = {"parameters": 0.076, "text": 0.095, "compute": 0.050}  # 2001.08361, table 1; 0.050 of C_min
CLOSE = 0.02  # of an exponent
PART = "The laws of models trained here"
DOUBT = "Where the fit must not be believed"
CONTROLS = "Controls of the method"
SMALL = "A small range of small models: it says nothing of larger ones."
FEWEST = 4  # points that make a law
PLANTED = 0.08
NOISE = 0.005  # of a planted loss, relative: what two seeds differ by here

FALLING: tuple[tuple[Of, str, str], ...] = (
    (
        "parameters",
        "More parameters: lower test loss, as a power of their number.",
        "Minus the slope of log loss against log parameters. Blocks alone: embeddings are not counted.",
    ),
    (
        "text",
        "More text: lower test loss, as a power of its amount.",
        "Minus the slope of log loss against log characters of text. Each stopped where text that is not tested on "
        "says that it is best.",
    ),
    (
        "compute",
        "More compute: lower test loss, as a power of it.",
        "Minus the slope of log loss against log operations. Six operations a weight and character; the sizes and "
        "durations that nothing cheaper beats. Half of the seeds chooses these, the other half is fitted, and then the "
        "other way round: what chose a frontier falls along it.",
    ),
)
FALLS = {
    of: Claim(
        text,
        expects="greater",
        unit=UNIT,
        part=PART,
        answers=True,
        measure=measure,
        caveat=SMALL,
        subject="trained here",
    )
    for of, text, measure in FALLING
}
PUBLISHED = Claim(
    "The exponent of {of} is the published one, {exponent}, within " + f"{CLOSE:g}.",
    expects="equal",
    margin=CLOSE,
    unit=UNIT,
    part="Beside the published exponents",
    measure="The exponent of the straight line. The table has that above a floor, too (Hoffmann et al.; their fit was "
    "redone in 2404.10102).",
    caveat="The published ones are of tokens of the web and of models up to a thousand million weights; these of "
    "characters of a sample, and of models of some thousands to a hundred thousand. The published 0.050 is of the "
    "least compute that reaches a loss, at the best batch; six operations a weight and token at one batch for all, as "
    "counted here, give Kaplan et al. 0.057.",
    subject="trained here",
)
FORETOLD = Claim(
    "The line through the smaller models foretells the largest one within 0.01 nats.",
    expects="equal",
    margin=0.01,
    unit=NATS,
    part=DOUBT,
    caveat="If one step is foretold well, ten steps need not be.",
    subject="trained here",
)
STRAIGHT = Claim(
    "In double logarithms the points lie on a line.",
    expects="equal",
    margin=0.01,
    unit=UNIT,
    part=DOUBT,
    measure="The coefficient of the squared logarithm, when it is added to the line: 0 is no bend.",
    subject="trained here",
)
COUNTING = Claim(
    "Whether embeddings are counted changes the exponent by more than 0.01.",
    expects="greater",
    margin=0.01,
    unit=UNIT,
    part=DOUBT,
    measure="Exponent of the same models, their token and position embeddings counted.",
    caveat="Both intervals are of the same points, and so is that of the gap: what moves both exponents is not in it.",
    subject="trained here",
)
PLANTED_FOUND = Claim(
    "Positive control: an exponent that was put into made-up losses is found again.",
    expects="equal",
    margin=0.005,
    unit=UNIT,
    part=CONTROLS,
    measure=f"Losses at the same sizes by a known law, with noise of {NOISE:.1%}, fitted a hundred times.",
    subject="trained here",
)
NOTHING_TO_LEARN = Claim(
    "Negative control: on shuffled characters, more parameters buy nothing.",
    expects="equal",
    margin=0.01,
    unit=UNIT,
    part=CONTROLS,
    measure="The same grid on the same characters in random order.",
    subject="trained here",
)
CLAIMS = [*FALLS.values(), PUBLISHED, FORETOLD, STRAIGHT, COUNTING, PLANTED_FOUND, NOTHING_TO_LEARN]


@dataclass(frozen=True)
class Law:
    """One fit with the points it is of. `x`: what they are laid out against."""

    of: Of
    points: tuple[Point, ...]
    x: tuple[float, ...]
    fit: PowerLaw

    @property
    def losses(self) -> list[float]:
        return [float(point.losses.mean()) for point in self.points]


def law_of(of: Of, points: Sequence[Point], *, embeddings: bool = False) -> Law:
    """The law of some points; of compute, that of the frontier, each seed fitted where other seeds chose the points."""
    if of == "compute":
        return _of_frontier(points)
    x = tuple(
        float({"parameters": p.parameters(embeddings=embeddings), "text": p.text, "compute": p.compute}[of])
        for p in points
    )
    losses = [float(p.losses.mean()) for p in points]
    return Law(of, tuple(points), x, fit_power_law(x, losses, over="size" if of == "parameters" else "point"))


def has_frontier(points: Sequence[Point]) -> bool:
    """Are there four points or more that nothing cheaper beats, whichever seeds choose them?"""
    return _crossfitted(points) is not None


def _crossfitted(points: Sequence[Point]) -> PowerLaw | None:
    return crossfitted_frontier([p.compute for p in points], np.stack([p.losses for p in points]))


def _of_frontier(points: Sequence[Point]) -> Law:
    fit = _crossfitted(points)
    assert fit is not None, "asked for only where has_frontier() is true"
    costs = [p.compute for p in points]
    halves = (lower_envelope(costs, [p.losses[start::2].mean() for p in points]) for start in (0, 1))
    kept = sorted({int(i) for half in halves for i in half}, key=lambda i: costs[i])
    return Law("compute", tuple(points[i] for i in kept), tuple(costs[i] for i in kept), fit)


AXES: dict[Of, str] = {"parameters": "parameters", "text": "characters of text", "compute": "operations"}


def falls(law: Law, others: Sequence[Point]) -> Finding:
    """Does the loss fall? The exponent is above zero."""
    axis = AXES[law.of]
    rows = point_rows(law, axis)
    rows += [
        {axis: p.compute, LOSS: float(p.losses.mean()), "drawn": "beaten by a cheaper one", "width": p.size.d_model}
        for p in others
        if law.of == "compute" and p not in law.points
    ]
    edge = sum(point.at_edge for point in law.points)
    return FALLS[law.of].answer(
        law.fit.exponent,
        zero(UNIT, "no law"),
        measure=f"A line through {len(law.points)} points.",
        caveat=f"The learning rate is at an end of those tried for {edge} of the points." if edge else "",
        table=rows,
        figure=Figure(
            "log_lines",
            x=axis,
            y=LOSS,
            group="drawn",
            low="low",
            high="high",
            caption="Both axes are logarithmic, so that a power law is straight. Bands: the seeds' least and largest.",
        ),
    )


def point_rows(law: Law, axis: str) -> list[Row]:
    """Measured points, then the line."""
    rows: list[Row] = []
    for point, x in zip(law.points, law.x, strict=True):
        rows.append({axis: x, LOSS: float(point.losses.mean()), "drawn": "measured"})
        rows[-1] |= {"low": float(point.losses.min()), "high": float(point.losses.max()), "seeds": len(point.losses)}
        rows[-1] |= {"width": point.size.d_model, "steps": point.steps, "learning rate": point.lr}
        rows[-1] |= {
            f"parameters, {w} embeddings": point.parameters(embeddings=w == "with") for w in ("with", "without")
        }
    for x in (min(law.x), max(law.x)):
        line = float(law.fit.predict(x))
        rows.append({axis: x, LOSS: line, "drawn": f"power {-law.fit.exponent.mean:.3f}", "low": line, "high": line})
    return rows


def compare_published(laws: Sequence[Law]) -> list[Finding]:
    """Beside the exponents of Kaplan et al."""
    table: list[Row] = []
    for law in laws:
        floor = fit_floor(law.x, law.losses)
        table.append({"law of": law.of, "exponent": law.fit.exponent.mean, "low": law.fit.exponent.low})
        table[-1] |= {"high": law.fit.exponent.high, "published": KAPLAN[law.of], "bend": law.fit.bend.mean}
        table[-1] |= {"floor (nats)": floor[0] if floor else None, "exponent above it": floor[1] if floor else None}
    return [
        PUBLISHED.answer(
            law.fit.exponent,
            set_beforehand(KAPLAN[law.of], UNIT, "Kaplan et al. 2001.08361"),
            about={"of": law.of, "exponent": f"{KAPLAN[law.of]:g}"},
            table=table,
        )
        for law in laws
    ]


def no_frontier(claim: Claim, **about: str) -> NotAsked:
    """Compute is not asked about where its frontier is too short for a law."""
    return claim.not_asked(
        f"because fewer than {FEWEST} points are beaten by nothing cheaper, whichever seeds choose", about=about or None
    )


def doubt(law: Law) -> list[Finding]:
    """Where the fit must not be believed: beyond its points, where it bends, and by how parameters are counted."""
    off, beyond = foretold_miss(law.x, law.losses, unit=NATS), law.points[-1]
    counted = law_of("parameters", law.points, embeddings=True)
    return [
        FORETOLD.answer(
            off,
            zero(NATS, "foretold exactly"),
            measure=f"Foretold loss less the measured one, of the model of width {beyond.size.d_model}, for "
            f"{len(beyond.losses)} seeds' mean. A step of {law.x[-1] / law.x[-2]:.1f} in size. The interval holds the "
            "line's own error and the scatter of one more point.",
        ),
        STRAIGHT.answer(law.fit.bend, zero(UNIT, "a line")),
        COUNTING.answer(
            counted.fit.exponent,
            Control("embeddings not counted", law.fit.exponent),
            paired=exponent_gap(counted.x, law.x, law.losses),
        ),
    ]


def nothing_to_learn(fit: PowerLaw) -> Finding:
    """Characters in random order: the larger model has nothing more to learn."""
    return NOTHING_TO_LEARN.answer(fit.exponent, zero(UNIT, "no law"))


def planted(lab: Lab, law: Law) -> Finding:
    """Losses made by a known law, with noise as large as the seeds': is the exponent found?"""
    rng = np.random.default_rng(lab.seed)
    exact = 2.0 * (np.array(law.x) / law.x[0]) ** -PLANTED
    found = [
        fit_power_law(law.x, exact * np.exp(rng.normal(0, NOISE, len(exact)))).exponent for _ in range(100)
    ]  # fmt: skip
    held = estimate_mean(
        [float(one.low <= PLANTED <= one.high) for one in found], unit="share of fits", over="fit", bounds=(0, 1)
    )
    return PLANTED_FOUND.answer(
        _mean_of([one.mean for one in found]),
        set_beforehand(PLANTED, UNIT, "the exponent that was put in"),
        measure=f"The 95 % interval holds the exponent in {held.mean:.0%} of them.",
    )


def _mean_of(values: Sequence[float]) -> Estimate:
    return estimate_mean(values, unit=UNIT, over="fit")
