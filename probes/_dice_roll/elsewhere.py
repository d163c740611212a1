"""Asked in other ways: the same side in other words, in a chat, and in every phrasing; other chance devices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp import Claim, Finding, Lab, NotAsked, halves, measured, set_beforehand
from interp.analysis import choose_among, choose_number
from interp.stats import estimate_mean

from . import SHARE, WORDS
from .asked import FAIR, MARGIN, DieAnswers, favourite_of, prompt_rows, shares
from .prompts import BEGUN, COIN, OTHERS

TIMES = "times its fair share"
ELSEWHERE = "(b) Asked in other ways"

ALONE, WORD, IN_CHAT = (
    Claim(text, expects="greater", unit=SHARE, margin=MARGIN, part=ELSEWHERE, measure=measure)
    for text, measure in (
        (
            "It is still {side} where numbers such as {side}2, which begin with it, do not count.",
            "The same prompts; the share of each digit without what its own tokens go on with.",
        ),
        (
            "Written as a word, the side is the same one: “{word}”.",
            "The same prompts, answered by a word.",
        ),
        (
            "Asked in a chat, the model gives {side}, too.",
            "Messages such as “Roll a die.” in the model's own template: mean over a bare answer and two beginnings "
            f"of one, “{BEGUN[0]}” and “{BEGUN[1]}”.",
        ),
    )
)
AGREE = Claim(
    "The phrasings agree on the side.",
    expects="greater",
    unit="share of prompts",
    part=ELSEWHERE,
    measure="Share of the judging prompts in which the favourite is the likeliest of the six.",
    caveat="One phrasing alone can prove any side: the table has all of them.",
)
DEVICE = Claim(
    "Another device has a favourite as well, half as much again as its fair share: {device}.",
    expects="greater",
    unit=TIMES,
    margin=0.5,
    part=ELSEWHERE,
    measure="Share of the favourite, which half of its prompts chose, in the other half, over its fair share. That 12 "
    "begins with a 1 does not count for 1.",
    caveat="A coin's favourite can reach twice its fair share at most, a twenty-sided die's twenty times.",
)
CLAIMS = [ALONE, WORD, IN_CHAT, AGREE, DEVICE]


def elsewhere(lab: Lab, asked: DieAnswers) -> Iterator[Finding | NotAsked]:
    """Part (b): the same side in other words, in a chat, and in every phrasing; other ranges."""
    side = asked.favourite
    number, word = {"side": side + 1}, WORDS[side].strip()
    again = {"alone": asked.alone.share[:, side], "word": asked.words.share[:, side]}
    if asked.chat is not None:
        again["chat"] = asked.chat.share[:, side]
    by_way = shares(again, lab)
    yield ALONE.answer(by_way["alone"], FAIR, about=number)
    mass = f"The six words take {asked.words.mass.mean():.0%} of the probability."
    yield WORD.answer(by_way["word"], FAIR, about={"word": word}, measure=mass)
    if asked.chat is None:
        yield IN_CHAT.not_asked(
            "because the model has no chat template, or writes digits together with it", about=number
        )
    else:
        yield IN_CHAT.answer(by_way["chat"], FAIR, about=number)
    tops = (asked.judged.argmax(1) == side).astype(float)
    yield AGREE.answer(
        estimate_mean(tops, unit=AGREE.unit, over="prompt", bounds=(0, 1), seed=lab.seed),
        set_beforehand(0.5, AGREE.unit, "one prompt in two"),
        measure=f"The favourite is {side + 1}.",
        table=prompt_rows(asked),
    )
    yield from _other_devices(lab)


def _other_devices(lab: Lab) -> Iterator[Finding]:
    """Numbers to 10 and to 20, and a coin: how far above its fair share is the favourite of each?"""
    sides = ["heads", "tails"]
    devices = {r.name: (choose_number(lab.model, r.prompts, r.numbers), [str(n) for n in r.numbers]) for r in OTHERS}
    devices["coin"] = (choose_among(lab.model, COIN, [f" {side}" for side in sides]), sides)
    for device, (choices, names) in devices.items():
        n, best = len(names), favourite_of(choices.share)
        times = measured(
            {(device, names[best]): halves(choices.share)[1][:, best] * n},
            by=("asked for", "favourite"),
            value=TIMES,
            over="prompt",
            bounds=(0, n),
            seed=lab.seed,
        )
        more = {
            "entropy (nats)": float(choices.entropy.mean()),
            "entropy of a fair one (nats)": float(np.log(n)),
            "probability of any of them": float(choices.mass.mean()),
        }
        yield DEVICE.answer(
            times[device, names[best]],
            set_beforehand(1.0, TIMES, "a fair device"),
            about={"device": device},
            measure=f"The favourite is {names[best]}.",
            table=times.rows(**more),
        )
