"""Things of which it is known what explains, makes and follows from them; and the same left to chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp import Control, Finding, Lab
from interp.features import TokenRules
from interp.stats import estimate_mean, known

from . import CONTROLS, CORRELATION, DOUBLINGS, ORDER
from .effect import AGAIN, ALIKE, STEEP, Lost, doublings
from .explained import explain
from .made_of import CHANCE as AT_CHANCE
from .made_of import PLANTED, SIZES, TOGETHER, Readouts, judged
from .units import FEWEST, Text, Units, dealt

WORDS = 3  # that a planted unit fires for
SURELY, CHANCE, SAME = 0.9, 0.05, 0.5  # correlation and AUC; either, by chance; doublings


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
) -> Iterator[Finding]:
    """Planted rules, sums and effects are found; what is dealt at random has none."""
    seed = lab.seed
    scores = explain(text, rules, planted_tokens(text, seed)).scores
    yield Finding(
        claim=f"Positive control: what fires for {WORDS} tokens alone has a rule that foretells it.",
        estimate=estimate_mean(scores[~np.isnan(scores)], unit=CORRELATION, over="planted unit", seed=seed),
        control=Control("nearly perfect", known(SURELY, unit=CORRELATION, why="set beforehand")),
        expects="greater",
        part=CONTROLS,
    )
    shuffled = dealt(features, text, seed)
    scores = explain(text, rules, shuffled).scores
    yield Finding(
        claim="Negative control: the features' firings, dealt to random tokens, have none.",
        estimate=estimate_mean(scores[~np.isnan(scores)], unit=CORRELATION, over="feature", seed=seed),
        control=Control("chance", known(0.0, unit=CORRELATION, why="chance")),
        expects="equal",
        margin=CHANCE,
        part=CONTROLS,
    )
    four = judged(readouts["planted"].neurons)[SIZES.index(TOGETHER)]
    yield Finding(
        claim=f"Positive control: {TOGETHER} neurons tell where a sum of {TOGETHER} fires.",
        estimate=estimate_mean(four, unit=ORDER, over="planted unit", seed=seed),
        control=Control("nearly perfect", known(SURELY, unit=ORDER, why="set beforehand")),
        expects="greater",
        part=CONTROLS,
        measure=f"Sums of {TOGETHER} neurons drawn at random, cut off so that they fire as often as features do.",
    )
    nothing = judged(readouts["dealt at random"].neurons)
    yield Finding(
        claim="Negative control: 64 neurons do not tell where firings were dealt at random.",
        estimate=estimate_mean(nothing[-1], unit=ORDER, over="feature", seed=seed),
        control=Control("chance", known(AT_CHANCE, unit=ORDER, why="chance")),
        expects="equal",
        margin=CHANCE,
        part=CONTROLS,
    )
    yield Finding(
        claim="Positive control: down the slope of the likeliest token, a change as long as a feature does more.",
        estimate=estimate_mean(
            doublings(lost.beside[STEEP], lost.beside[ALIKE]), unit=DOUBLINGS, over="feature", seed=seed
        ),
        control=Control("a random change", known(0.0, unit=DOUBLINGS, why="as much")),
        expects="greater",
        margin=SAME,
        part=CONTROLS,
        measure="At the same tokens, along the gradient of the likeliest next token's log-probability: the direction "
        "in which the model surely changes.",
    )
    yield Finding(
        claim="Negative control: two random changes do equally much.",
        estimate=estimate_mean(
            doublings(lost.beside[AGAIN], lost.beside[ALIKE]), unit=DOUBLINGS, over="feature", seed=seed
        ),
        control=Control("as much", known(0.0, unit=DOUBLINGS, why="as much")),
        expects="equal",
        margin=SAME,
        part=CONTROLS,
        measure="How far two draws of the same kind lie apart: what the numbers of this part cannot tell from nothing.",
    )
