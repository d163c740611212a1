"""What the model answers: the whole distribution, over phrasings, beside prompts that ask for no die."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp import Control, Estimate, Figure, Finding, Lab, Model, Row, UserError, chat_prompt, has_chat
from interp.analysis import Choices, choose_among, choose_number, entropy_of
from interp.stats import estimate_mean, known

from . import DIGITS, SHARE, SIDES, UNIFORM, WORDS
from .prompts import ASKED, BEGUN, COIN, NULL, NUMBER_ASKED, NUMBER_BEGUN, OTHERS

MARGIN = 0.1  # of share: what a loaded die would have to be beyond fair
LESS_ENTROPY = 0.2  # nats
PART = "(a) What it answers"
ELSEWHERE = "(b) Asked in other ways"
FAIR = "a fair die"


@dataclass(frozen=True)
class Asked:
    """The six shares by way of asking; `alone`: a 1 that goes on, as in 12, does not count.

    `favourite` (0 for side 1) was chosen on every second raw prompt.
    """

    prompts: tuple[str, ...]
    raw: Choices
    alone: Choices
    null: Choices
    words: Choices
    chat: Choices | None
    chat_null: Choices | None
    favourite: int

    @property
    def judged(self) -> NDArray[np.float64]:
        """Shares of the raw prompts that did not choose the favourite."""
        return self.raw.share[1::2]


def ask_for_a_die(model: Model, prompts: Sequence[str]) -> Asked:
    """Every way of asking. Chat is left out for a model without a template, and where text and answer melt."""
    raw = choose_among(model, prompts, DIGITS)
    chat, chat_null = (_in_chat(model, *some) for some in ((ASKED, BEGUN), (NUMBER_ASKED, NUMBER_BEGUN)))
    return Asked(
        tuple(prompts),
        raw,
        choose_number(model, prompts, range(1, SIDES + 1)),
        choose_among(model, NULL, DIGITS),
        choose_among(model, prompts, WORDS),
        chat,
        chat_null,
        int(raw.share[::2].mean(0).argmax()),
    )


def _in_chat(model: Model, messages: Sequence[str], begun: Sequence[str]) -> Choices | None:
    """Both ways of answering in a chat: the model's turn begins with the digit, or with some first words of its own."""
    if not has_chat(model):
        return None
    try:
        digit_first = choose_among(model, [chat_prompt(model, m) for m in messages], [d.strip() for d in DIGITS])
        words_first = choose_among(model, [chat_prompt(model, m, b) for m in messages for b in begun], DIGITS)
    except UserError:  # the tokenizer merges the digits with the template
        return None
    n, ways = len(messages), len(begun)
    share = np.concatenate([digit_first.share[:, None], words_first.share.reshape(n, ways, SIDES)], 1)
    mass = np.concatenate([digit_first.mass[:, None], words_first.mass.reshape(n, ways)], 1)
    return Choices(DIGITS, share.mean(1), mass.mean(1))  # one row a message: its ways are no prompts of their own


def favourites(lab: Lab, asked: Asked) -> list[Finding]:
    """Part (a): is there a favourite, is it 4, and does the die have to do with it?"""
    side, table = asked.favourite, side_rows(lab, asked)
    ours = shares(asked.judged[:, side], lab)
    figure = Figure(
        "interval_dots",
        x="share of the six answers",
        y="side",
        group="asked",
        low="low",
        high="high",
        chance=UNIFORM,
        caption="How likely each side is, given that the answer is one of the six. Dashed: a fair die. Intervals over "
        "prompts. “No die” are prompts such as “Please read chapter”.",
    )
    mass = f"The six digits together take {asked.raw.mass.mean():.0%} of the probability there."
    null = shares(asked.null.share[:, side], lab)
    entropy, fair = np.log(SIDES), FAIR
    return [
        Finding(
            claim=f"One side, {side + 1}, comes up more often than a fair die shows it, by 10 points.",
            estimate=ours,
            control=Control(fair, known(UNIFORM, unit=SHARE, why="1 in 6")),
            expects="greater",
            margin=MARGIN,
            part=PART,
            answers=True,
            measure="Probability of the side among the six answers, read from the model and not sampled. The side is "
            f"the favourite of every second prompt; the others are measured. {mass}",
            caveat="A model's text is not a throw: it says what people write about dice.",
            table=table,
            figure=figure,
        ),
        Finding(
            claim="The side 4 comes up more often than a fair die shows it, by 10 points.",
            estimate=shares(asked.raw.share[:, 3], lab),
            control=Control(fair, known(UNIFORM, unit=SHARE, why="1 in 6")),
            expects="greater",
            margin=MARGIN,
            part=PART,
            answers=True,
            measure="Probability of 4 among the six answers, over all prompts: 4 was named before anything ran.",
            caveat="That 4 is the favourite is said of one model that somebody tried. It is a habit, not a law.",
        ),
        Finding(
            claim=f"It has to do with the die: {side + 1} is likelier than in place of any number, by 10 points.",
            estimate=ours,
            control=Control("prompts that ask for a number and no die", null),
            expects="greater",
            margin=MARGIN,
            part=PART,
            answers=True,
            measure="Probability of the favourite among the six digits, behind prompts such as “Turn to page”.",
            caveat="Small numbers are written more often than large ones, about dice or not.",
        ),
        Finding(
            claim="The answers are less spread out than a fair die's.",
            estimate=estimate_mean(
                asked.raw.entropy, unit="nats", over="prompt", bounds=(0.0, float(entropy)), seed=lab.seed
            ),
            control=Control(fair, known(float(entropy), unit="nats", why="ln 6")),
            expects="less",
            margin=LESS_ENTROPY,
            part=PART,
            measure="Entropy of the six shares: 0 where one side always comes, 1.79 where all are as likely. That of "
            f"the mean over prompts is {entropy_of(asked.raw.share.mean(0)):.3g}.",
            table=prompt_rows(asked),
        ),
    ]


def elsewhere(lab: Lab, asked: Asked) -> list[Finding]:
    """Part (b): the same side in other words, in a chat, and in every phrasing; other ranges."""
    side = asked.favourite
    found = [
        _same_side(
            lab,
            f"It is still {side + 1} where numbers such as {side + 1}2, which begin with it, do not count.",
            asked.alone.share[:, side],
            "The same prompts; the share of each digit without what its own tokens go on with.",
        ),
        _same_side(
            lab,
            f"Written as a word, the side is the same one: “{WORDS[side].strip()}”.",
            asked.words.share[:, side],
            "The same prompts, answered by a word; the six words take "
            f"{asked.words.mass.mean():.0%} of the probability.",
        ),
    ]
    if asked.chat is not None:
        found.append(
            _same_side(
                lab,
                f"Asked in a chat, the model gives {side + 1}, too.",
                asked.chat.share[:, side],
                "Messages such as “Roll a die.” in the model's own template: mean over a bare answer and two "
                f"beginnings of one, “{BEGUN[0]}” and “{BEGUN[1]}”.",
            )
        )
    tops = (asked.judged.argmax(1) == side).astype(float)
    found.append(
        Finding(
            claim="The phrasings agree on the side.",
            estimate=estimate_mean(tops, unit="share of prompts", over="prompt", bounds=(0, 1), seed=lab.seed),
            control=Control("one prompt in two", known(0.5, unit="share of prompts", why="half of them")),
            expects="greater",
            part=ELSEWHERE,
            measure=f"Share of the judging prompts in which {side + 1} is the likeliest of the six.",
            caveat="One phrasing alone can prove any side: the table has all of them.",
            table=prompt_rows(asked),
        )
    )
    return [*found, _other_ranges(lab)]


def _same_side(lab: Lab, claim: str, values: NDArray[np.float64], measure: str) -> Finding:
    return Finding(
        claim=claim,
        estimate=shares(values, lab),
        control=Control(FAIR, known(UNIFORM, unit=SHARE, why="1 in 6")),
        expects="greater",
        margin=MARGIN,
        part=ELSEWHERE,
        measure=measure,
    )


def _other_ranges(lab: Lab) -> Finding:
    """Numbers to 10 and to 20, and a coin: how far above its fair share is the favourite of each?"""
    rows: list[Row] = []
    times: list[float] = []
    for name, choices, told in _ranges(lab.model):
        fair = 1 / len(choices.answers)
        best = int(choices.share[::2].mean(0).argmax())
        here = choices.share[1::2, best] / fair
        times += here.tolist()
        at = estimate_mean(here, unit="times its fair share", over="prompt", bounds=(0, 1 / fair), seed=lab.seed)
        rows.append(
            {
                "asked for": name,
                "favourite": told[best],
                "times its fair share": at.mean,
                "low": at.low,
                "high": at.high,
                "entropy (nats)": float(choices.entropy.mean()),
                "entropy of a fair one (nats)": float(-np.log(fair)),
                "probability of any of them": float(choices.mass.mean()),
            }
        )
    return Finding(
        claim="Other devices have favourites as well: half as much again as their fair share.",
        estimate=estimate_mean(times, unit="times its fair share", over="prompt", bounds=(0, 20), seed=lab.seed),
        control=Control("a fair device", known(1.0, unit="times its fair share", why="fair")),
        expects="greater",
        margin=0.5,
        part=ELSEWHERE,
        measure="Share of each device's favourite, which half of its prompts chose, in the other half, over its fair "
        "share. That 12 begins with a 1 does not count for 1.",
        caveat="A coin's favourite can reach twice its fair share at most, a twenty-sided die's twenty times.",
        table=rows,
        figure=Figure(
            "interval_dots",
            x="times its fair share",
            y="asked for",
            low="low",
            high="high",
            chance=1.0,
            caption="How far the favourite of each device exceeds its fair share; intervals over prompts.",
        ),
    )


def _ranges(model: Model) -> list[tuple[str, Choices, list[str]]]:
    found = [(r.name, choose_number(model, r.prompts, r.numbers), [str(n) for n in r.numbers]) for r in OTHERS]
    sides = ["heads", "tails"]
    return [*found, ("coin", choose_among(model, COIN, [f" {side}" for side in sides]), sides)]


def shares(values: NDArray[np.float64], lab: Lab) -> Estimate:
    """Mean share over prompts."""
    return estimate_mean(values, unit=SHARE, over="prompt", bounds=(0.0, 1.0), seed=lab.seed)


def side_rows(lab: Lab, asked: Asked) -> list[Row]:
    """Each side's share by the way of asking."""
    ways = {
        "die, digits": asked.raw,
        "die, without 10 and more": asked.alone,
        "die, words": asked.words,
        "die, chat": asked.chat,
    }
    ways |= {"no die": asked.null, "no die, chat": asked.chat_null}
    rows: list[Row] = []
    for way, choices in ways.items():
        if choices is None:
            continue
        for side in range(SIDES):
            at = shares(choices.share[:, side], lab)
            rows.append({"asked": way, "side": str(side + 1), SHARE: at.mean, "low": at.low, "high": at.high})
    return rows


def prompt_rows(asked: Asked) -> list[Row]:
    """The shares of every raw prompt."""
    rows: list[Row] = []
    for prompt, share, mass in zip(asked.prompts, asked.raw.share, asked.raw.mass, strict=True):
        rows.append({"prompt": prompt, "likeliest": str(int(share.argmax()) + 1)})
        rows[-1] |= {f"share of {side + 1}": float(p) for side, p in enumerate(share)}
        rows[-1]["probability of any of the six"] = float(mass)
    return rows
