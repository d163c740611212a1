"""The joint law of parameters and data: both exponents, what it foretells, and how the best size grows with compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from interp import Claim, Control, Figure, Finding, Lab, NotAsked, Row, measured, set_beforehand, zero
from interp.stats import EXPONENT as UNIT
from interp.stats import (
    JointEstimates,
    edge_misses,
    estimate_gap,
    estimate_joint_law,
    joint_law_by_chance,
)

from . import LOSS, NATS
from .grid import Point

PART = "The joint law of parameters and data"
AMOUNTS = 4  # of text read: three decide an exponent, and one more is held out
SHARE = "share of exponents"
FEW = 0.1
NEAR = 0.1  # of the exponent of the best size: Hoffmann's and Kaplan's are 0.23 apart
PAPERS = {"Hoffmann et al. 2203.15556": 0.50, "Kaplan et al. 2001.08361": 0.73}
ELSEWHERE: tuple[tuple[str, float], ...] = (
    ("Hoffmann et al., 1", 0.50),
    ("Hoffmann et al., 2", 0.49),
    ("Hoffmann et al., 3", 0.46),
    ("3, redone", 0.51),
    ("Kaplan et al.", 0.73),
)
FORM = "loss = E + A / parameters^a + B / characters^b, fitted to all models that read no more text than there is."

LOWERS = Claim(
    "In one law for all models, {what} lower the loss: the exponent is above zero.",
    expects="greater",
    unit=UNIT,
    part=PART,
    answers=True,
    measure=f"{FORM} Intervals by drawing models, and seeds of each, again and fitting again.",
    caveat="The floor E and the exponents are hard to tell apart over so small a range: the sign is surer than the "
    "size. Parameters are those of the blocks.",
    subject="trained here",
)
FORETELLS = Claim(
    "The joint law foretells the largest and the longest trained models better than {simpler}.",
    expects="less",
    unit=NATS,
    part=PART,
    measure="How far off each law is, fitted to the smaller and shorter trained models alone.",
    caveat="The held-out models share one fit: the interval is of these models and not of other grids. The best of the "
    "laws in one variable is picked afterwards, which makes it harder to beat.",
    subject="trained here",
)
BEST_SIZE = Claim(
    "The best size grows with compute as {paper} have it, to the power {exponent}, within " + f"{NEAR:g}.",
    expects="equal",
    margin=NEAR,
    unit=UNIT,
    part=PART,
    measure="b / (a + b) of the joint law, for six operations a weight and character.",
    caveat="Where embeddings are not counted, as here, small models give larger exponents than where they are "
    "(2406.12907 explains Kaplan's by it): the table has both.",
    subject="trained here",
)
BY_CHANCE = Claim(
    "Negative control: with the losses dealt to the models at random, fewer than one exponent in ten is above zero.",
    expects="less",
    unit=SHARE,
    part=PART,
    measure="Both exponents of each deal, fitted in the same way: is the whole interval above zero?",
    subject="trained here",
)
CLAIMS = [LOWERS, FORETELLS, BEST_SIZE, BY_CHANCE]
VARIABLES = ("more parameters", "more data")
THOUSANDS = "parameters / 1000"  # as short as it can be: on a narrow page two panels stand side by side
HELD_OUT = "Mean miss a character at the held-out models. The last one is no law: the loss of the nearest model."
SIMPLER = ("any law in one variable", "the powers of both multiplied")


def joint_law(lab: Lab, points: Sequence[Point]) -> Iterator[Finding | NotAsked]:
    """What all models that read no text twice say together, or why they cannot be asked."""
    once = [point for point in points if point.read_once]
    amounts = len({point.characters for point in once})
    if amounts < AMOUNTS:
        yield from _not_asked(amounts, max(point.characters for point in points))
        return
    found = _estimate(lab, once, embeddings=False)
    yield from _lowers(found, once)
    yield from _foretells(lab, once)
    yield from _best_size(found, _estimate(lab, once, embeddings=True))
    by_chance = joint_law_by_chance(*_grid(once), seed=lab.seed)
    yield BY_CHANCE.answer(by_chance, set_beforehand(FEW, SHARE, "one in ten"))


def _grid(points: Sequence[Point], *, embeddings: bool = False) -> tuple[list[int], list[int], np.ndarray]:
    """Sizes, amounts of text and losses [point, seed]."""
    sizes = [point.parameters(embeddings=embeddings) for point in points]
    return sizes, [point.characters for point in points], np.stack([point.losses for point in points])


def _estimate(lab: Lab, points: Sequence[Point], *, embeddings: bool) -> JointEstimates:
    return estimate_joint_law(*_grid(points, embeddings=embeddings), over="model", seed=lab.seed)


def _lowers(found: JointEstimates, points: Sequence[Point]) -> Iterator[Finding]:
    law = found.law
    no_floor = " (no floor shows, and with one the exponents would be larger)" if law.floor < 0.01 else ""
    fitted = (
        f"E = {law.floor:.2f}{no_floor}, a = {law.a:.2f}, b = {law.b:.2f}; in the middle of the grid, "
        f"{law.size:,.0f} parameters and {law.amount:,.0f} characters, parameters can take off "
        f"{law.of_parameters:.2f} nats more and data {law.of_data:.2f}."
    )
    edge = sum(point.at_edge for point in points)
    for what, exponent in zip(VARIABLES, (found.a, found.b), strict=True):
        first = what == VARIABLES[0]
        yield LOWERS.answer(
            exponent,
            zero(UNIT, "no law"),
            about={"what": what},
            measure=fitted,
            caveat=f"The learning rate is at an end of those tried for {edge} of {len(points)} models." if edge else "",
            table=_curves(found, points) if first else None,
            figure=Figure(
                "log_lines", x=THOUSANDS, y=LOSS, group="drawn", facet="panel", low="low", high="high",
                caption="A panel for each number of characters read, one law for all. Bands: the seeds' least and "
                "largest.",
            ) if first else None,
        )  # fmt: skip


def _curves(found: JointEstimates, points: Sequence[Point]) -> list[Row]:
    """The measured losses and the law's, by amount of text."""
    rows: list[Row] = []
    for point in sorted(points, key=lambda p: (p.characters, p.size.d_model)):
        parameters = point.parameters(embeddings=False)
        at: Row = {"panel": f"{point.characters:,} read", THOUSANDS: parameters / 1000}
        law = float(found.law.predict(parameters, point.characters))
        least, largest = float(point.losses.min()), float(point.losses.max())
        rows.append({**at, LOSS: float(point.losses.mean()), "low": least, "high": largest, "drawn": "measured"})
        rows.append({**at, LOSS: law, "low": law, "high": law, "drawn": "joint law"})
    return rows


def _foretells(lab: Lab, points: Sequence[Point]) -> Iterator[Finding]:
    off = edge_misses(*_grid(points))
    by_law = {
        "both, added (joint)": off.joint,
        "both, multiplied": off.multiplied,
        **{f"{variable} alone": missed for variable, missed in off.alone.items()},
        "nearest model": off.nearest,
    }
    table = measured(by_law, by=("law",), value="miss (nats)", unit=NATS, over="model", seed=lab.seed)
    for simpler, missed in zip(SIMPLER, (off.alone[off.best_alone], off.multiplied), strict=True):
        gap = estimate_gap(off.joint, missed, unit=NATS, over="model", seed=lab.seed)
        first = simpler == SIMPLER[0]
        name = f"{off.best_alone} alone" if first else simpler
        yield FORETELLS.answer(
            gap.estimate, Control(name, gap.control), about={"simpler": simpler}, paired=gap.gap,
            measure=f"{len(off.joint)} models held out, {len(points) - len(off.joint)} fitted.",
            table=table.rows() if first else None,
            figure=table.dots(y="law", caption=HELD_OUT) if first else None,
        )  # fmt: skip


def _best_size(found: JointEstimates, counted: JointEstimates) -> Iterator[Finding | NotAsked]:
    """Beside both papers. Where a term does not fall there is no best size."""
    here = {"here": found.best_size, "here, with embeddings": counted.best_size}
    rows: list[Row] = [
        {"fitted by": name, "exponent": one.mean, "low": one.low, "high": one.high} for name, one in here.items() if one
    ] + [{"fitted by": name, "exponent": value, "low": value, "high": value} for name, value in ELSEWHERE]
    for number, (paper, exponent) in enumerate(PAPERS.items()):
        about = {"paper": paper, "exponent": f"{exponent:g}"}
        if found.best_size is None:
            yield BEST_SIZE.not_asked("because one of the exponents is not above zero: no size is best", about=about)
            continue
        yield BEST_SIZE.answer(
            found.best_size,
            set_beforehand(exponent, UNIT, paper),
            about=about,
            table=rows if number == 0 else None,
            figure=Figure(
                "interval_dots", x="exponent", y="fitted by", low="low", high="high",
                caption="Hoffmann et al. by their three approaches; the third was redone in 2404.10102.",
            ) if number == 0 else None,
        )  # fmt: skip


def _not_asked(amounts: int, most: int) -> Iterator[NotAsked]:
    because = (
        f"because it needs {AMOUNTS} amounts of text that are read no more than once, and there are {amounts}; a "
        f"--corpus of {most:,} characters has them"
    )
    for what in VARIABLES:
        yield LOWERS.not_asked(because, about={"what": what})
    for simpler in SIMPLER:
        yield FORETELLS.not_asked(because, about={"simpler": simpler})
    for paper, exponent in PAPERS.items():
        yield BEST_SIZE.not_asked(because, about={"paper": paper, "exponent": f"{exponent:g}"})
    yield BY_CHANCE.not_asked(because)
