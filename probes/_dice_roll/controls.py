"""Is the method blind, does it see what is not there? Dice of known sides, and a model that knows nothing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from interp import (
    Control,
    Estimate,
    Finding,
    Lab,
    Model,
    Row,
    SmallGPT2,
    TrainingJob,
    train_small_gpt2s,
    with_random_weights,
)
from interp.analysis import choose_among
from interp.stats import estimate_mean, known

from . import DIGITS, SHARE, SIDES, UNIFORM
from .prompts import NULL

PART = "Controls of the method"
LOADED = 0.5  # of the throws show 4
CLOSE = 0.1  # how near the method must come: the small models are trained on a thousand throws
THROWS = 1000
OPENINGS = ("the die shows", "she rolled a", "it came up", "the throw gave", "he got a", "the die landed on")


def controls(lab: Lab, prompts: Sequence[str]) -> list[Finding]:
    """Small models that read of a loaded die, and of a fair one; the loaded model's shape with random weights."""
    seeds = range(lab.seed, lab.seed + (2 if lab.quick else 4))
    jobs = [
        TrainingJob(throws(loaded, seed), SmallGPT2(steps=150, d_model=32), seed)
        for loaded in (True, False)
        for seed in seeds
    ]
    models = train_small_gpt2s(jobs, progress=lab.tell("training models on dice whose sides are known"))
    loaded, fair = models[: len(seeds)], models[len(seeds) :]
    table: list[Row] = [
        {"die": name, "model": i + 1, "side": str(side + 1), SHARE: float(p)}
        for name, some in (("loaded", loaded), ("fair", fair))
        for i, model in enumerate(some)
        for side, p in enumerate(_read(model).mean(0))
    ]
    return [
        Finding(
            claim="Positive control: a model that read of a die loaded to 4 is found to say 4 as often.",
            estimate=_over_models([float(_read(model)[:, 3].mean()) for model in loaded]),
            control=Control("how the die was loaded", known(LOADED, unit=SHARE, why="half of the throws")),
            expects="equal",
            margin=CLOSE,
            part=PART,
            measure=f"{len(seeds)} small GPT-2s are trained on {THROWS:,} sentences such as “the die shows 4”.",
            table=table,
        ),
        Finding(
            claim="Negative control: in models that read of a fair die no favourite is found.",
            estimate=_over_models([_favourite(model) for model in fair]),
            control=Control("a fair die", known(UNIFORM, unit=SHARE, why="1 in 6")),
            expects="equal",
            margin=CLOSE,
            part=PART,
            measure="The side that half of the prompts prefer, in the other half, as for the loaded model.",
        ),
        _nothing_known(lab, prompts),
    ]


def throws(loaded: bool, seed: int) -> list[str]:
    """Sentences of throws, an exact share of each side behind every opening."""
    rest = (1 - LOADED) / (SIDES - 1)
    weights = [LOADED if loaded and side == 3 else rest if loaded else UNIFORM for side in range(SIDES)]
    each = THROWS // len(OPENINGS)
    sentences = []
    for opening in OPENINGS:
        counts = [round(each * weight) for weight in weights]
        sentences += [f"{opening} {side + 1}" for side, n in enumerate(counts) for _ in range(n)]
    Random(seed).shuffle(sentences)
    return sentences


def _read(model: Model) -> np.ndarray:
    return choose_among(model, OPENINGS, DIGITS).share


def _favourite(model: Model) -> float:
    share = _read(model)
    return float(share[1::2, share[::2].mean(0).argmax()].mean())


def _over_models(values: Sequence[float]) -> Estimate:
    return estimate_mean(values, unit=SHARE, over="model", bounds=(0.0, 1.0))


def _nothing_known(lab: Lab, prompts: Sequence[str]) -> Finding:
    """Random weights prefer some token everywhere; about the die they know nothing."""
    random_weights = with_random_weights(lab.model, lab.seed)
    asked, null = (choose_among(random_weights, some, DIGITS).share for some in (prompts, NULL))
    side = int(asked[::2].mean(0).argmax())
    ours, theirs = (
        estimate_mean(share[:, side], unit=SHARE, over="prompt", bounds=(0.0, 1.0), seed=lab.seed)
        for share in (asked[1::2], null)
    )
    return Finding(
        claim="Negative control: with random weights, the favourite has nothing to do with the die.",
        estimate=ours,
        control=Control("prompts that ask for a number and no die", theirs),
        expects="equal",
        margin=0.1,
        part=PART,
        measure=f"As in part (a), for the same architecture with random weights; its favourite is {side + 1}.",
        caveat="Random weights may prefer a digit behind every prompt, which is why the die is compared with no die.",
    )
