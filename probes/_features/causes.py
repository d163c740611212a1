"""What is lost without a feature, beside other changes as long, and beside a neuron."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp import Control, Figure, Finding, Lab, Row
from interp.stats import estimate_mean, known

from . import CAUSES, DOUBLINGS
from .effect import ALIKE, BLIND, OTHER, Kl, Lost

STRONGER = 0.5  # doublings
BESIDE = "doublings beside it"


def causes(features: Lost, neurons: Lost, lab: Lab) -> Iterator[Finding]:
    """Does the model use a feature more than it must?"""
    ours, theirs = features.against(ALIKE), neurons.against(ALIKE)
    table: list[Row] = []
    for away, lost, names in (("feature", features, (ALIKE, BLIND, OTHER)), ("neuron", neurons, (ALIKE,))):
        for name in names:
            at = estimate_mean(lost.against(name), unit=DOUBLINGS, over="unit", seed=lab.seed)
            table.append({"taken away": f"{away}, beside: {name}", BESIDE: at.mean, "low": at.low, "high": at.high})
            table[-1] |= {"KL, typical (nats)": _typical(lost.without)}
            table[-1] |= {"KL of what stands beside it, typical (nats)": _typical(lost.beside[name])}
            table[-1] |= {"length of the change": float(lost.length.mean())}
    long = features.length.mean(), neurons.length.mean()
    lengths = f"The changes are {long[0]:.3g} long for features, {long[1]:.3g} for neurons."
    nothing = Control("no difference", known(0.0, unit=DOUBLINGS, why="as much as that"))
    yield Finding(
        claim="Without a feature, the next token's probabilities change more than by a random change as long.",
        estimate=estimate_mean(ours, unit=DOUBLINGS, over="feature", seed=lab.seed),
        control=nothing,
        expects="greater",
        margin=STRONGER,
        part=CAUSES,
        answers=True,
        measure="How often the KL of the random change, drawn as activations vary, must be doubled to give that "
        f"without the feature, at three of its strong firings. Typical: {_typical(features.without):.2g} nats against "
        f"{_typical(features.beside[ALIKE]):.2g}. {lengths}",
        caveat="Taken away at one token; what it does to later tokens is not seen. Beside a change in any direction "
        "the number is larger, for most directions do little.",
        table=table,
        figure=Figure(
            "interval_dots", x=BESIDE, y="taken away", low="low", high="high", chance=0.0,
            caption="How often the KL must be doubled from what stands beside it, of the same length, to what is taken "
            "away.",
        ),
    )  # fmt: skip
    yield Finding(
        claim="And more than without another feature that is active there, made as long.",
        estimate=estimate_mean(features.against(OTHER), unit=DOUBLINGS, over="feature", seed=lab.seed),
        control=nothing,
        expects="greater",
        margin=STRONGER,
        part=CAUSES,
        measure="The same number beside another feature drawn from those active at the same token, its direction "
        "scaled to the same length.",
        caveat="The features taken away are at their strongest, the other ones are as they come.",
    )
    yield Finding(
        claim="For its length, a feature does more than a neuron.",
        estimate=estimate_mean(ours - theirs, unit=DOUBLINGS, over="feature", seed=lab.seed),
        control=nothing,
        expects="greater",
        margin=STRONGER,
        part=CAUSES,
        measure="The number of the first finding less that of a neuron at three of its own strong tokens, beside "
        f"random changes as long as what the neuron writes. {lengths}",
    )


def _typical(kl: Kl) -> float:
    """The geometric mean, which the doublings are differences of."""
    return float(np.exp(np.log(np.maximum(kl, 1e-12)).mean()))
