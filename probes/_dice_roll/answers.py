"""What the model answers: the whole distribution, over phrasings, beside the same sentences about another thing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp import Claim, Control, Finding, Lab, Measured, NotAsked, measured, same_as
from interp.analysis import entropy_of
from interp.stats import estimate_gap, estimate_mean, known

from . import SHARE, SIDES, UNIFORM
from .asked import FAIR, LEAST_PAIRS, MARGIN, DieAnswers, over_sentences, prompt_rows, shares
from .prompts import NOUNS

PART = "(a) What it answers"
FAIR_ENTROPY = float(np.log(SIDES))

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
CLAIMS = [FAVOURITE, FOUR, OF_THE_DIE, SPREAD]


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
        table=prompt_rows(asked),
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
        same_as(SHARE, "in those sentences about another thing"),
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
