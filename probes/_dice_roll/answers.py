"""What the model answers: the whole distribution, over phrasings, beside the same sentences about another thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp import (
    Claim,
    Control,
    Estimate,
    Finding,
    Lab,
    Measured,
    Model,
    NotAsked,
    Row,
    UserError,
    chat_prompt,
    halves,
    has_chat,
    measured,
    set_beforehand,
    zero,
)
from interp.analysis import Choices, choose_among, choose_number, entropy_of
from interp.stats import estimate_gap, estimate_mean, known

from . import DIGITS, SHARE, SIDES, UNIFORM, WORDS
from .prompts import ASKED, BEGUN, COIN, NOUNS, NULL, NUMBER_ASKED, NUMBER_BEGUN, OTHERS, without_die

MARGIN = 0.1  # of share: what a loaded die would have to be beyond fair
TIMES = "times its fair share"
PART = "(a) What it answers"
ELSEWHERE = "(b) Asked in other ways"
LEAST_PAIRS = 4  # judging prompts that can be asked about another thing
FAIR = Control("a fair die", known(UNIFORM, unit=SHARE, why="1 in 6"))
FAIR_ENTROPY = float(np.log(SIDES))
Floats = NDArray[np.float64]

FAVOURITE = Claim(
    "One side, {side}, comes up more often than a fair die shows it, by 10 points.",
    expects="greater",
    unit=SHARE,
    margin=MARGIN,
    part=PART,
    measure="Probability of the side among the six answers, read from the model and not sampled. The side is the "
    "favourite of every second prompt; the others are measured.",
    caveat="A model's text is not a throw. One that writes the same number behind every text has a favourite, too.",
)
FOUR = Claim(
    "The side 4 comes up more often than a fair die shows it, and than in the same sentence about another thing, by 10 "
    "points.",
    expects="greater",
    unit=SHARE,
    margin=MARGIN,
    part=PART,
    answers=True,
    measure="Probability of 4 among the six answers, over prompts that name a die: 4 was named before anything ran. "
    "Beside it stands, prompt by prompt, 1 in 6 or the probability of 4 with another noun in place of the die, "
    "whichever is more.",
    caveat="That 4 is the favourite is said of one model that somebody tried. It is a habit, not a law.",
)
OF_THE_DIE = Claim(
    "It has to do with the die: {side} is likelier than in the same sentence about another thing, by 10 points.",
    expects="greater",
    unit=SHARE,
    margin=MARGIN,
    part=PART,
    answers=True,
    measure="Probability of the favourite among the six digits, less that with another noun in place of the die: "
    f"{', '.join(NOUNS)} (their mean, sentence by sentence).",
    caveat="The interval is for other sentences; the table shows what hangs on the noun. A card may have a number, "
    "too, and a stone that is rolled hardly asks for one.",
)
SPREAD = Claim(
    "The answers are less spread out than a fair die's.",
    expects="less",
    unit="nats",
    margin=0.2,
    part=PART,
    measure="Entropy of the six shares: 0 where one side always comes, 1.79 where all are as likely.",
)
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
CLAIMS = [FAVOURITE, FOUR, OF_THE_DIE, SPREAD, ALONE, WORD, IN_CHAT, AGREE, DEVICE]


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


def favourites(lab: Lab, asked: DieAnswers) -> Iterator[Finding | NotAsked]:
    """Part (a): is there a favourite, is it 4, and does the die have to do with it?"""
    ways = _ways(lab, asked)
    side = {"side": asked.favourite + 1}
    yield FAVOURITE.answer(
        shares({"favourite": asked.judged[:, asked.favourite]}, lab)["favourite"],
        FAIR,
        about=side,
        measure=f"The six digits together take {asked.raw.mass.mean():.0%} of the probability there.",
        table=ways.rows(),
        figure=ways.dots(
            y="side",
            chance=UNIFORM,
            caption="How likely each side is, given that the answer is one of the six. Dashed: a fair die. Intervals "
            "over prompts. “No die” are prompts such as “Please read chapter”.",
        ),
    )
    yield _four(lab, asked)
    yield _of_the_die(lab, asked)
    yield SPREAD.answer(
        estimate_mean(asked.raw.entropy, unit="nats", over="prompt", bounds=(0.0, FAIR_ENTROPY), seed=lab.seed),
        Control("a fair die", known(FAIR_ENTROPY, unit="nats", why="ln 6")),
        measure=f"That of the mean over prompts is {entropy_of(asked.raw.share.mean(0)):.3g}.",
        table=_prompt_rows(asked),
    )


def _four(lab: Lab, asked: DieAnswers) -> Finding | NotAsked:
    """Is it 4, and not only because 4 comes behind such sentences, die or no die?"""
    if len(asked.judging) < LEAST_PAIRS:
        return FOUR.not_asked(f"because {_too_few(asked)}")
    four = asked.raw.share[asked.swapped, 3]
    without = asked.other_things[..., 3].mean(0)
    pair = estimate_gap(four, np.maximum(UNIFORM, without), unit=SHARE, over="prompt", bounds=(0.0, 1.0), seed=lab.seed)
    return FOUR.answer(
        pair.estimate,
        Control("a fair die, or the same sentence about another thing", pair.control),
        measure=f"Without the die it is {without.mean():.2f}.",
        paired=pair.gap,
    )


def _too_few(asked: DieAnswers) -> str:
    return (
        f"{len(asked.judging)} of the {len(asked.judged)} judging prompts name a die, and not as their last word; "
        f"{LEAST_PAIRS} are needed"
    )


def _of_the_die(lab: Lab, asked: DieAnswers) -> Finding | NotAsked:
    about = {"side": asked.favourite + 1}
    if len(asked.judging) < LEAST_PAIRS:
        return OF_THE_DIE.not_asked(f"because {_too_few(asked)}", about=about)
    gaps = asked.of_the_die
    by_noun = measured(
        dict(zip(NOUNS, gaps, strict=True)),
        by=("instead of the die",),
        value="more with the die (share of the six)",
        unit=SHARE,
        over="prompt",
        bounds=(-1.0, 1.0),
        seed=lab.seed,
    )
    without = asked.other_things[:, asked.judging, asked.favourite].mean()
    return OF_THE_DIE.answer(
        over_sentences(gaps, lab),
        zero(SHARE, "the same sentences about another thing"),
        about=about,
        measure=f"It is {without + gaps.mean():.2f} with the die and {without:.2f} without.",
        table=by_noun.rows(),
        figure=by_noun.dots(
            y="instead of the die",
            chance=0.0,
            caption="How much likelier the favourite is with the die, by what stands in its place. Intervals over "
            "prompts.",
        ),
    )


def over_sentences(gaps: Floats, lab: Lab) -> Estimate:
    """The mean of differences of shares [noun, prompt]; nouns are averaged first."""
    return estimate_mean(gaps.T, unit=SHARE, over="prompt", bounds=(-1.0, 1.0), seed=lab.seed)


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
        table=_prompt_rows(asked),
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


def shares(values: dict[str, Floats], lab: Lab) -> Measured:
    """Mean shares over prompts, by name."""
    return measured(values, by=("asked",), value=SHARE, over="prompt", bounds=(0.0, 1.0), seed=lab.seed)


def _ways(lab: Lab, asked: DieAnswers) -> Measured:
    """Each side's share by the way of asking."""
    ways = {
        "die, digits": asked.raw.share,
        "die, without 10 and more": asked.alone.share,
        "die, words": asked.words.share,
        "no die": asked.null.share,
    }
    if asked.swapped:
        ways["another thing"] = asked.other_things.mean(0)
    if asked.chat is not None and asked.chat_null is not None:
        ways |= {"die, chat": asked.chat.share, "no die, chat": asked.chat_null.share}
    return measured(
        {(way, str(side + 1)): share[:, side] for way, share in ways.items() for side in range(SIDES)},
        by=("asked", "side"),
        value=SHARE,
        over="prompt",
        bounds=(0.0, 1.0),
        seed=lab.seed,
    )


def _prompt_rows(asked: DieAnswers) -> list[Row]:
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
