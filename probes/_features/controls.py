"""Things of which it is known what explains, makes and follows from them; and the same left to chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from interp import Claim, Control, Finding, Lab, NotAsked, set_beforehand, zero
from interp.features import TokenRules
from interp.stats import estimate_mean

from . import CONTROLS, CORRELATION, DOUBLINGS, ORDER
from .effect import AGAIN, ALIKE, STEEP, Lost, doublings
from .explained import NAMED, explain, known_scores
from .made_of import CHANCE as AT_CHANCE
from .made_of import PLANTED, SIZES, TOGETHER, Readouts, judged
from .units import FEWEST, Text, Units, dealt

WORDS = 3  # that a planted unit fires for
SURELY, CHANCE, SAME = 0.9, 0.05, 0.5  # AUC; correlation and AUC, by chance; doublings
WHOLE = (-1.0, 1.0)  # a correlation: plants that all have 1 are few, and so no certainty

PLANTED_RULE = Claim(
    f"Positive control: what fires for {WORDS} tokens alone has a rule that foretells it.",
    expects="greater",
    unit=CORRELATION,
    part=CONTROLS,
    subject="SAE",
)
NO_RULE = Claim(
    "Negative control: the features' firings, dealt to random tokens, have none.",
    expects="equal",
    margin=CHANCE,
    unit=CORRELATION,
    part=CONTROLS,
    subject="SAE",
)
PLANTED_SUM = Claim(
    f"Positive control: {TOGETHER} neurons tell where a sum of {TOGETHER} fires.",
    expects="greater",
    unit=ORDER,
    part=CONTROLS,
    measure=f"Sums of {TOGETHER} neurons drawn at random, cut off so that they fire as often as features do.",
    subject="SAE",
)
NO_NEURONS = Claim(
    "Negative control: 64 neurons do not tell where firings were dealt at random.",
    expects="equal",
    margin=CHANCE,
    unit=ORDER,
    part=CONTROLS,
    subject="SAE",
)
STEEPEST = Claim(
    "Positive control: down the slope of the likeliest token, a change as long as a feature does more.",
    expects="greater",
    margin=SAME,
    unit=DOUBLINGS,
    part=CONTROLS,
    measure="At the same tokens, along the gradient of the likeliest next token's log-probability: the direction in "
    "which the model surely changes.",
)
TWO_ALIKE = Claim(
    "Negative control: two random changes do equally much.",
    expects="equal",
    margin=SAME,
    unit=DOUBLINGS,
    part=CONTROLS,
    measure="How far two draws of the same kind lie apart: what the numbers of this part cannot tell from nothing.",
)
CLAIMS = [PLANTED_RULE, NO_RULE, PLANTED_SUM, NO_NEURONS, STEEPEST, TWO_ALIKE]


def planted_tokens(text: Text, seed: int) -> Units:
    """Units that fire on three tokens drawn from those that are met often, and on nothing else."""
    rng, ids = np.random.default_rng(seed), text.facts.token
    kinds, met = np.unique(ids[text.kept], return_counts=True)
    often = kinds[np.argsort(-met, kind="stable")][: max(WORDS, int((met >= FEWEST).sum()))]
    rows = [text.kept[np.isin(ids[text.kept], rng.permutation(often)[:WORDS])] for _ in range(PLANTED)]
    return Units("planted", tuple(range(PLANTED)), tuple(rows), tuple(np.ones(len(one)) for one in rows))


def controls(
    lab: Lab,
    text: Text,
    rules: TokenRules,
    features: Units,
    readouts: dict[str, Readouts],
    lost: Lost,
) -> Iterator[Finding | NotAsked]:
    """Planted rules, sums and effects are found; what is dealt at random has none."""
    seed = lab.seed
    surely, plant = "nearly perfect", "planted unit"
    rule_of_plants = known_scores(explain(text, rules, planted_tokens(text, seed)).scores)
    rule_of_dealt = known_scores(explain(text, rules, dealt(features, text, seed)).scores)
    plants, chance = judged(readouts["planted"].neurons), judged(readouts["dealt at random"].neurons)
    yield _judged(lab, PLANTED_RULE, rule_of_plants, set_beforehand(NAMED, CORRELATION, "a rule"), plant, WHOLE)
    yield _judged(lab, NO_RULE, rule_of_dealt, zero(CORRELATION, "chance"), "feature", WHOLE)
    sums = plants[SIZES.index(TOGETHER)]
    yield _judged(lab, PLANTED_SUM, sums, set_beforehand(SURELY, ORDER, surely), plant, (0.0, 1.0))
    yield _judged(lab, NO_NEURONS, chance[-1], set_beforehand(AT_CHANCE, ORDER, "chance"), "feature", (0.0, 1.0))
    for claim, what, beside in ((STEEPEST, STEEP, "a random change"), (TWO_ALIKE, AGAIN, "as much")):
        times = doublings(lost.beside[what], lost.beside[ALIKE])
        yield claim.answer(estimate_mean(times, unit=DOUBLINGS, over="feature", seed=seed), zero(DOUBLINGS, beside))


def _judged(
    lab: Lab,
    claim: Claim,
    scores: NDArray[np.float64],
    control: Control,
    over: str,
    bounds: tuple[float, float],
) -> Finding | NotAsked:
    if not len(scores):
        return claim.not_asked(f"because no {over} fires in the documents that judge")
    return claim.answer(estimate_mean(scores, unit=claim.unit, over=over, bounds=bounds, seed=lab.seed), control)
