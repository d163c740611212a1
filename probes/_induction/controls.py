"""Models in which an induction head was planted by hand, and the model's own shape with random weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp import Claim, Finding, Lab, Model, plant_induction, with_random_weights, zero
from interp.stats import estimate_mean

from . import CONTROLS, GAIN, LOOKS, NATS, PAID
from .heads import choose_heads, mean_scores, paid_back
from .sequences import Floats, gains, log_probs, make_sequences

PLANTED, PLANTED_LENGTH = 6, 10  # models made by hand, and the longest copy that fits them

PLANTED_COPIES = Claim(
    "Positive control: where an induction head was planted, the second copy is predicted.",
    expects="greater",
    unit=NATS,
    margin=GAIN,
    part=CONTROLS,
    measure="As of this model, over models made by hand.",
    subject="trained here",
)
PLANTED_LOOKS = Claim(
    "Positive control: where an induction head was planted, it is among the chosen ones and looks back.",
    expects="greater",
    unit=PAID,
    margin=LOOKS,
    part=CONTROLS,
    measure="As of this model, over models made by hand.",
    subject="trained here",
)
RANDOM_COPIES = Claim(
    "Negative control: random weights predict the second copy no better.",
    expects="equal",
    unit=NATS,
    margin=GAIN,
    part=CONTROLS,
    measure="As of this model.",
)
RANDOM_LOOKS = Claim(
    "Negative control: the heads of random weights do not look back.",
    expects="equal",
    unit=PAID,
    margin=LOOKS,
    part=CONTROLS,
    measure="As of this model.",
)
CLAIMS = [PLANTED_COPIES, PLANTED_LOOKS, RANDOM_COPIES, RANDOM_LOOKS]


def controls(lab: Lab, length: int, share: float) -> Iterator[Finding]:
    """Planted heads are found, over models; random weights do nothing of it, over sequences."""
    planted = [_asked(plant_induction(lab.seed * PLANTED + i).model, PLANTED_LENGTH, 1, 0.1, i) for i in range(PLANTED)]
    random_weights = _asked(with_random_weights(lab.model, lab.seed), length, 2, share, lab.seed)
    for copies, looks, over, (gained, paid) in (
        (PLANTED_COPIES, PLANTED_LOOKS, "model", np.array([[one.mean() for one in pair] for pair in planted]).T),
        (RANDOM_COPIES, RANDOM_LOOKS, "sequence", random_weights),
    ):
        yield copies.answer(estimate_mean(gained, unit=NATS, over=over, seed=lab.seed), zero(NATS))
        yield looks.answer(estimate_mean(paid, unit=PAID, over=over, bounds=(-1.0, 1.0), seed=lab.seed), zero(PAID))


def _asked(model: Model, length: int, each: int, share: float, seed: int) -> tuple[Floats, Floats]:
    """What the second copy gains, and what chosen heads pay, beyond the shuffled copy, for each sequence."""
    choosing, judging, shuffled = make_sequences(model, length, each, seed)
    gained = gains(log_probs(model, judging)) - gains(log_probs(model, shuffled))
    heads = choose_heads(mean_scores(model, choosing), share)
    return gained, paid_back(model, heads, judging) - paid_back(model, heads, shuffled)
