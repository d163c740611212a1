"""Is the method blind, does it see what is not there? Dice of known sides, and a model that knows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from interp import (
    Claim,
    Finding,
    Lab,
    Model,
    NotAsked,
    Row,
    SmallGPT2,
    TrainingJob,
    halves,
    measured,
    same_as,
    set_beforehand,
    train_small_gpt2s,
    with_random_weights,
)
from interp.analysis import choose_among

from . import DIGITS, SHARE, SIDES, UNIFORM
from .asked import (
    FAIR,
    LEAST_PAIRS,
    DieAnswers,
    Floats,
    ask_about_other_things,
    favourite_of,
    more_with_the_die,
    over_sentences,
)

PART = "Controls of the method"
LOADED = 0.5  # of the throws show 4
CLOSE = 0.1  # how near the method must come: the small models are trained on a thousand throws
THROWS = 1000
OPENINGS = ("the die shows", "she rolled a", "it came up", "the throw gave", "he got a", "the die landed on")

SEES = Claim(
    "Positive control: a model that read of a die loaded to 4 is found to say 4 as often.",
    expects="equal",
    unit=SHARE,
    margin=CLOSE,
    part=PART,
    subject="trained here",
)
NO_FAVOURITE = Claim(
    "Negative control: in models that read of a fair die no favourite is found.",
    expects="equal",
    unit=SHARE,
    margin=CLOSE,
    part=PART,
    measure="The side that half of the prompts prefer, in the other half, as for the loaded model.",
    subject="trained here",
)
BLIND = Claim(
    "Negative control: with random weights, the favourite has nothing to do with the die.",
    expects="equal",
    unit=SHARE,
    margin=CLOSE,
    part=PART,
    measure="As in part (a), for the same architecture with random weights.",
    caveat="Random weights may prefer a digit behind every prompt, which is why the die is compared with other things.",
)
CLAIMS = [SEES, NO_FAVOURITE, BLIND]


def controls(lab: Lab, asked: DieAnswers) -> Iterator[Finding | NotAsked]:
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
    read = measured(
        {
            "loaded": [float(_read(model)[:, 3].mean()) for model in loaded],
            "fair": [_of_favourite(_read(model)) for model in fair],
        },
        by=("die",),
        value=SHARE,
        over="model",
        bounds=(0.0, 1.0),
    )
    yield SEES.answer(
        read["loaded"],
        set_beforehand(LOADED, SHARE, "how the die was loaded"),
        measure=f"{len(seeds)} small GPT-2s are trained on {THROWS:,} sentences such as “the die shows 4”.",
        table=table,
    )
    yield NO_FAVOURITE.answer(read["fair"], FAIR)
    yield _nothing_known(lab, asked)


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


def _read(model: Model) -> Floats:
    return choose_among(model, OPENINGS, DIGITS).share


def _of_favourite(share: Floats) -> float:
    return float(halves(share)[1][:, favourite_of(share)].mean())


def _nothing_known(lab: Lab, asked: DieAnswers) -> Finding | NotAsked:
    """Random weights prefer some token everywhere; about the die they know nothing."""
    if len(asked.judging) < LEAST_PAIRS:
        return BLIND.not_asked("because part (a) does not ask it of these prompts either")
    random_weights = with_random_weights(lab.model, lab.seed)
    share = choose_among(random_weights, asked.prompts, DIGITS).share
    other, side = ask_about_other_things(random_weights, [asked.prompts[i] for i in asked.swapped]), favourite_of(share)
    gaps = more_with_the_die(share, asked.swapped, other, side)
    return BLIND.answer(
        over_sentences(gaps, lab),
        same_as(SHARE, "in those sentences about another thing"),
        measure=f"Its favourite is {side + 1}.",
    )
