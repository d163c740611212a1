"""Controls of the method: the embedding, directions as long as the one that was measured, random weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from interp import Claim, Finding, Lab, Measured, Model, set_beforehand
from interp.analysis import layer_of_parameter
from interp.stats import estimate_crossed, estimate_mean, proportion

from . import CONTROLS, RIGHT
from .phrases import TEMPLATES, Words, read_vectors
from .size import At, ToldApart, length_between, tell_apart, told_by

FOUND = "share of planted directions"
DRAWS = 16  # directions that are planted, of each length
PARTS = (0.25, 0.5, 1.0)  # of the length that was measured
UNMEASURED = 0.1  # of a vector's length, where no direction was measured
MODELS = 12  # with other random weights
SHORT = (TEMPLATES[0], TEMPLATES[3])
NOUNS = 2

BEGINNING = Claim(
    "Self-test: in the embedding, before any context, nothing is told.",
    expects="equal",
    margin=0.01,
    unit=RIGHT,
    part=CONTROLS,
    arithmetic=True,
    measure="As in part (a), at layer 0: every pair must be a tie.",
)
PLANTED = Claim(
    "Positive control: a planted direction {length} is found oftener than not.",
    expects="greater",
    unit=FOUND,
    part=CONTROLS,
    measure="The power: in how many of the trials it is told better than by chance, by the rule of the first finding. "
    "Neutral adjectives are dealt to two classes, and to the vectors of one a direction drawn at random is added.",
)
UNTRAINED = Claim(
    "Negative control: random weights tell large from small as a coin does, within 15 points.",
    expects="equal",
    margin=0.15,
    unit=RIGHT,
    part=CONTROLS,
    measure="As in part (a), for the same architecture with random weights. They mix context too, but what they mix in "
    "is another random vector for every adjective, so that a single model may tell 20 or 80 %: only the mean over "
    f"models must be one half, and with {MODELS} of them its interval reaches about 10 points far.",
)
CLAIMS = [BEGINNING, PLANTED, UNTRAINED]


def beginning(apart: ToldApart) -> Finding:
    """Layer 0."""
    return BEGINNING.answer(
        estimate_crossed([apart.right], unit=RIGHT, over="noun", exact=True, across="adjective"),
        set_beforehand(0.5, RIGHT, "chance"),
    )


def planted(lab: Lab, sized: At, neutral: At, n_perm: int) -> Finding:
    """As long as the direction of size was measured to be, and parts of that."""
    measured_length, whole = length_between(sized), float(neutral.norm(dim=-1).mean())
    is_measured = measured_length > 0
    length = measured_length if is_measured else UNMEASURED * whole
    rng = np.random.default_rng(lab.seed)
    power = {}
    for part in PARTS:
        trials = [plant_and_find(neutral, part * length, rng, n_perm) for _ in range(DRAWS)]
        power[(part * length / whole,)] = proportion(trials, unit=FOUND, over="planted direction")
        lab.progress("planting directions", len(power), len(PARTS))
    by_length = Measured(("length (of a vector's)",), FOUND, power)
    return PLANTED.answer(
        power[(length / whole,)],
        set_beforehand(0.5, FOUND, "half of them"),
        about={
            "length": "as long as the one that was measured"
            if is_measured
            else "a tenth of the vectors long, as none was measured,"
        },
        measure=f"It is {length / whole:.1%} of a vector's length; half as long, "
        f"{power[(0.5 * length / whole,)].mean:.0%} are found, a quarter as long, "
        f"{power[(0.25 * length / whole,)].mean:.0%}.",
        table=by_length.rows(),
        figure=by_length.lines(
            x="length (of a vector's)", caption="The power: planted directions that are found, by their length."
        ),
    )


def plant_and_find(at: At, length: float, rng: np.random.Generator, n_perm: int) -> bool:
    """Deal the adjectives to two classes, move one class along a random direction, and look for it."""
    n = at.shape[1] // 2
    dealt = at[:, rng.permutation(at.shape[1])[: 2 * n]].clone()
    direction = torch.from_numpy(rng.normal(size=at.shape[-1])).to(at)
    dealt[:, n:] += length * direction / direction.norm()
    apart = tell_apart(dealt, n_perm, int(rng.integers(2**31)))
    return apart.estimate.low > apart.null.mean and apart.estimate.mean > apart.null.high


def untrained(lab: Lab, words: Words, middle: int, first: Model) -> Finding:
    """Several models with random weights, `first` among them: one has its own luck with a few adjectives.

    The others are drawn in the place of `first`, which is of no more use behind this: to make a model takes longer than
    to draw its weights.
    """
    shares = [share_told(lab, first, words, middle, SHORT)]
    with first.tree.settled():  # hooks that share the weights stay right, however these are drawn
        for i in range(1, MODELS):
            redraw(first, lab.seed * MODELS + i, middle)
            shares.append(share_told(lab, first, words, middle, SHORT))
            lab.progress("telling with random weights", i + 1, MODELS)
    return UNTRAINED.answer(
        estimate_mean(shares, unit=RIGHT, over="random model", bounds=(0.0, 1.0), seed=lab.seed),
        set_beforehand(0.5, RIGHT, "chance"),
        measure=f"{len(words.small)} adjectives of each kind, {NOUNS} nouns, {len(SHORT)} sentences.",
    )


@torch.no_grad()
def redraw(model: Model, seed: int, below: int) -> None:
    """Draw the matrices outside the blocks, and those of the blocks `below`, anew: as wide as each is."""
    generator = torch.Generator(model.device).manual_seed(seed)
    for name, weight in model.hf.named_parameters():
        layer = layer_of_parameter(name)
        if weight.ndim > 1 and (layer is None or layer < below):
            weight.normal_(0.0, float(weight.float().std()), generator=generator)


def share_told(lab: Lab, model: Model, words: Words, middle: int, templates: Sequence[str]) -> float:
    """Share of pairs that one model tells rightly."""
    vectors = read_vectors(
        lab, model, words.sized, words.nouns[:NOUNS], (middle,), "reading with random weights", tuple(templates)
    )
    at = vectors.of(words.sized, middle)
    return float(told_by(at, at).mean())
