"""What is asked of the model, and its shares of the six sides by way of asking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp import Control, Estimate, Lab, Measured, Model, Row, UserError, chat_prompt, halves, has_chat, measured
from interp.analysis import Choices, choose_among, choose_number
from interp.stats import estimate_mean, known

from . import DIGITS, SHARE, SIDES, UNIFORM, WORDS
from .prompts import ASKED, BEGUN, NOUNS, NULL, NUMBER_ASKED, NUMBER_BEGUN, without_die

MARGIN = 0.1  # of share: what a loaded die would have to be beyond fair
LEAST_PAIRS = 4  # judging prompts that can be asked about another thing
FAIR = Control("a fair die", known(UNIFORM, unit=SHARE, why="1 in 6"))
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DieAnswers:
    """The six shares by way of asking; `alone`: a 1 that goes on, as in 12, does not count.

    `swapped` are the prompts that can be asked about another thing (their numbers among all), `other_things` [noun,
    prompt, side] the shares there. `favourite` (0 for side 1) was chosen on every second raw prompt, `judging` are the
    numbers among `swapped` of those that did not choose it.
    """

    prompts: tuple[str, ...]
    raw: Choices
    alone: Choices
    swapped: list[int]
    other_things: Floats
    null: Choices
    words: Choices
    chat: Choices | None
    chat_null: Choices | None

    @property
    def favourite(self) -> int:
        return favourite_of(self.raw.share)

    @property
    def judged(self) -> Floats:
        """Shares of the raw prompts that did not choose the favourite."""
        return halves(self.raw.share)[1]

    @property
    def judging(self) -> list[int]:
        return [i for i, prompt in enumerate(self.swapped) if prompt % 2]

    @property
    def of_the_die(self) -> Floats:
        """The favourite's share less that in the same sentence about another thing [noun, prompt]."""
        return more_with_the_die(self.raw.share, self.swapped, self.other_things, self.favourite)


def favourite_of(share: Floats) -> int:
    """The side that every second prompt prefers."""
    return int(halves(share)[0].mean(0).argmax())


def more_with_the_die(share: Floats, swapped: list[int], other_things: Floats, side: int) -> Floats:
    """A side's share with the die less that without it [noun, prompt], in prompts that did not choose the side."""
    judging = [i for i, prompt in enumerate(swapped) if prompt % 2]
    return share[[swapped[i] for i in judging], side] - other_things[:, judging, side]


def ask_for_a_die(model: Model, prompts: Sequence[str]) -> DieAnswers:
    """Every way of asking. Chat is left out for a model without a template, and where text and answer melt."""
    swapped = [i for i, prompt in enumerate(prompts) if without_die(prompt, NOUNS[0])]
    return DieAnswers(
        tuple(prompts),
        choose_among(model, prompts, DIGITS),
        choose_number(model, prompts, range(1, SIDES + 1)),
        swapped,
        ask_about_other_things(model, [prompts[i] for i in swapped]),
        choose_among(model, NULL, DIGITS),
        choose_among(model, prompts, WORDS),
        _in_chat(model, ASKED, BEGUN),
        _in_chat(model, NUMBER_ASKED, NUMBER_BEGUN),
    )


def ask_about_other_things(model: Model, prompts: Sequence[str]) -> Floats:
    """The six shares [noun, prompt, side] of these prompts with another noun in place of the die."""
    changed = [without_die(prompt, noun) or prompt for noun in NOUNS for prompt in prompts]
    share = choose_among(model, changed, DIGITS).share if changed else np.empty(0)
    return share.reshape(len(NOUNS), len(prompts), SIDES)


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


def over_sentences(gaps: Floats, lab: Lab) -> Estimate:
    """The mean of differences of shares [noun, prompt]; nouns are averaged first."""
    return estimate_mean(gaps.T, unit=SHARE, over="prompt", bounds=(-1.0, 1.0), seed=lab.seed)


def shares(values: dict[str, Floats], lab: Lab) -> Measured:
    """Mean shares over prompts, by name."""
    return measured(values, by=("asked",), value=SHARE, over="prompt", bounds=(0.0, 1.0), seed=lab.seed)


def prompt_rows(asked: DieAnswers) -> list[Row]:
    """The shares of every raw prompt."""
    return [
        {
            "prompt": prompt,
            "likeliest": str(int(share.argmax()) + 1),
            **{f"share of {side + 1}": float(p) for side, p in enumerate(share)},
            "probability of any of the six": float(mass),
        }
        for prompt, share, mass in zip(asked.prompts, asked.raw.share, asked.raw.mass, strict=True)
    ]
