"""What is lost without a feature, beside other changes as long, and beside a neuron."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp import Claim, Finding, Lab, NotAsked, Row, measured, zero
from interp.stats import estimate_mean

from . import CAUSES, DOUBLINGS
from .effect import ALIKE, BLIND, OTHER, Kl, Lost
from .units import Text

STRONGER = 0.5  # doublings
BESIDE = "doublings beside it"

THAN_CHANGE = Claim(
    "Without a feature, the next token's probabilities change more than by a random change as long.",
    expects="greater",
    margin=STRONGER,
    unit=DOUBLINGS,
    part=CAUSES,
    answers=True,
    measure="How often the KL of the random change, drawn as activations vary, must be doubled to give that without "
    "the feature, at three of its strong firings.",
    caveat="Taken away at one token; what it does to later tokens is not seen. Beside a change in any direction the "
    "number is larger, for most directions do little. A model that only copies tokens uses features of tokens, too.",
    subject="SAE",
)
THAN_FEATURE = Claim(
    "And more than without another feature that is active there, made as long.",
    expects="greater",
    margin=STRONGER,
    unit=DOUBLINGS,
    part=CAUSES,
    measure="The same number beside another feature drawn from those active at the same token, its direction scaled "
    "to the same length.",
    caveat="The features taken away are at their strongest, the other ones are as they come.",
)
THAN_NEURON = Claim(
    "For its length, a feature does more than a neuron.",
    expects="greater",
    margin=STRONGER,
    unit=DOUBLINGS,
    part=CAUSES,
    measure="The number of the first finding less that of a neuron at three of its own strong tokens, beside random "
    "changes as long as what the neuron writes.",
)
CLAIMS = [THAN_CHANGE, THAN_FEATURE, THAN_NEURON]


def causes(text: Text, features: Lost, neurons: Lost, lab: Lab) -> Iterator[Finding | NotAsked]:
    """Does the model use a feature more than it must?"""
    sides = {
        f"{what}, beside: {name}": (lost, name)
        for what, lost, names in (("feature", features, (ALIKE, BLIND, OTHER)), ("neuron", neurons, (ALIKE,)))
        for name in names
        if len(lost.against(name))
    }
    doubled = measured(
        {what: lost.against(name) for what, (lost, name) in sides.items()},
        by=("taken away",),
        value=BESIDE,
        unit=DOUBLINGS,
        over="unit",
        seed=lab.seed,
    )
    table: list[Row] = []
    for row in doubled.rows():
        lost, name = sides[str(row["taken away"])]
        row["KL, typical (nats)"] = _typical(lost.without)
        row["KL of what stands beside it, typical (nats)"] = _typical(lost.beside[name])
        table.append(row | {"length of the change": float(lost.length.mean())})
    lengths = (
        f"The changes are {features.length.mean():.3g} long for features, {neurons.length.mean():.3g} for neurons."
    )
    yield THAN_CHANGE.answer(
        estimate_mean(features.against(ALIKE), unit=DOUBLINGS, over="feature", seed=lab.seed),
        zero(DOUBLINGS),
        measure=f"Typical: {_typical(features.without):.2g} nats against {_typical(features.beside[ALIKE]):.2g}. "
        f"{lengths} {text.told}",
        table=table,
        figure=doubled.dots(
            y="taken away",
            chance=0.0,
            caption="How often the KL must be doubled from what stands beside it, of the same length, to what is taken "
            "away.",
        ),
    )
    if len(beside_others := features.against(OTHER)):
        estimate = estimate_mean(beside_others, unit=DOUBLINGS, over="feature", seed=lab.seed)
        yield THAN_FEATURE.answer(estimate, zero(DOUBLINGS))
    else:
        yield THAN_FEATURE.not_asked("because no other feature is active where these fire")
    gaps = features.against(ALIKE) - neurons.against(ALIKE)
    estimate = estimate_mean(gaps, unit=DOUBLINGS, over="feature", seed=lab.seed)
    yield THAN_NEURON.answer(estimate, zero(DOUBLINGS), measure=lengths)


def _typical(kl: Kl) -> float:
    """The geometric mean, which the doublings are differences of."""
    return float(np.exp(np.nanmean(np.log(np.maximum(kl, 1e-12)))))
