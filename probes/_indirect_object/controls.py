"""A model whose one writing head is known, and the model's own shape with random weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp import (
    Claim,
    Finding,
    Lab,
    induction_contrast,
    plant_induction,
    set_beforehand,
    with_random_weights,
    zero,
)
from interp.analysis import attribute_logits
from interp.stats import estimate_mean

from . import CONTROLS, UNIT
from .heads import MOST, WRITTEN, choose_heads, shares_written
from .sentences import Sentences, ahead, third_gives

FOUND = Claim(
    "Positive control: where one head was planted that writes the answer, the chosen heads write most of it.",
    expects="greater",
    unit=WRITTEN,
    part=CONTROLS,
    measure="As for the names, in GPT-2s made by hand, which repeat what came after the last mention of a word: 16 "
    "heads, two of which are chosen.",
    caveat="It shows that the attribution finds a head, not that it finds name movers.",
    subject="trained here",
)
BLIND = Claim(
    "Negative control: random weights prefer neither name.",
    expects="equal",
    unit=UNIT,
    margin=0.5,
    part=CONTROLS,
    measure="Lead of the right name where one of the two gives, less that where the other is said again and a "
    "third person gives, with random weights.",
)
CLAIMS = [FOUND, BLIND]


def controls(lab: Lab, made: list[Sentences]) -> Iterator[Finding]:
    """Planted heads are found, and random weights have no lead."""
    shares = []
    for seed in range(lab.seed, lab.seed + (3 if lab.quick else 6)):
        planted, contrast = plant_induction(seed), induction_contrast(seed, pairs=8)
        parts = [attribute_logits(planted.model, contrast.source, contrast.right, contrast.wrong, by="head")]
        shares.append(float(np.mean(shares_written(parts, choose_heads(parts, 0.1)))))
    yield FOUND.answer(
        estimate_mean(shares, unit=WRITTEN, over="model", seed=lab.seed),
        set_beforehand(MOST, WRITTEN, "half of it"),
    )
    model = with_random_weights(lab.model, lab.seed)
    (one_of_the_two,) = ahead(model, made, "wrong")
    yield BLIND.answer(
        estimate_mean(one_of_the_two - third_gives(model, made), unit=UNIT, over="prompt", seed=lab.seed), zero(UNIT)
    )
