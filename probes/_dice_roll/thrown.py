"""The die is thrown: answers are sampled, counted, and held against what was read from the probabilities."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from interp import Claim, Finding, Lab, NotAsked, Row, zero
from interp.stats import estimate_mean

from . import SIDES, UNIFORM
from .asked import DieAnswers, Floats

THROWS, QUICK_THROWS = 32, 12  # a prompt, at temperature 1
TOKENS = 3  # a space, a digit, and what shows whether the number goes on
LEAST = 30  # throws that show a side
DRAWS = 4000

AS_READ = Claim(
    "Thrown and counted, the die shows its favourite as often as its probability says, within 10 points.",
    expects="equal",
    unit="share of the throws",
    margin=0.1,
    part="(b) Asked in other ways",
    measure="Answers sampled at temperature 1: the favourite's share of the throws of a prompt that show a side, less "
    "its share of the probability.",
    caveat="Each throw begins anew. Several in one text would depend on each other.",
)


def thrown(lab: Lab, asked: DieAnswers) -> Finding | NotAsked:
    """Throw in every prompt, and tell how unlike a fair die's, and how unlike the read shares, the counts are."""
    each = QUICK_THROWS if lab.quick else THROWS
    counts = throw(lab, asked.prompts, each)
    threw = counts.sum(1) > 0
    if counts.sum() < LEAST or threw.sum() < 2:
        return AS_READ.not_asked(
            f"because {int(counts.sum())} of {each * len(counts)} sampled answers are a side; {LEAST} are needed"
        )
    side, counts, read = asked.favourite, counts[threw], asked.alone.share[threw]
    gaps = counts[:, side] / counts.sum(1) - read[:, side]
    n, expected = int(counts.sum()), (counts.sum(1, keepdims=True) * read).sum(0)
    fair, as_read = chance_of(counts, np.full_like(read, UNIFORM), lab.seed), chance_of(counts, read, lab.seed)
    rows: list[Row] = [
        {"side": i + 1, "thrown": int(counts[:, i].sum()), "read": float(expected[i]), "of a fair die": n * UNIFORM}
        for i in range(SIDES)
    ]
    return AS_READ.answer(
        estimate_mean(gaps, unit=AS_READ.unit, over="prompt", bounds=(-1.0, 1.0), seed=lab.seed),
        zero(AS_READ.unit),
        measure=f"{n} throws show a side, the favourite, {side + 1}, {int(counts[:, side].sum())} times. A fair die is "
        f"as uneven (chi-square) in {fair:.2g} of {DRAWS:,} draws, one with the read probabilities in {as_read:.2g}.",
        table=rows,
    )


def throw(lab: Lab, prompts: Sequence[str], each: int) -> Floats:
    """How often each side comes [prompt, side] in `each` sampled answers. 12 is no 1, and text no throw."""
    counts = np.zeros((len(prompts), SIDES))
    longest, context = max(map(len, lab.model.encode(list(prompts)))), lab.model.context_length
    room = min(TOKENS, context - longest) if context else TOKENS
    for i, prompt in enumerate(prompts):
        seed = lab.seed * len(prompts) + i
        written = lab.model.generate([prompt] * each, max_new_tokens=max(room, 1), temperature=1.0, seed=seed)
        for text in written.texts:
            if (side := side_of(text)) is not None:
                counts[i, side] += 1
        lab.progress("throwing", i + 1, len(prompts))
    return counts


def side_of(text: str) -> int | None:
    """Which side an answer begins with (0 for 1); None for another number, and for words."""
    found = re.match(rf"\s*([1-{SIDES}])(?!\d)", text)
    return int(found[1]) - 1 if found else None


def chance_of(counts: Floats, share: Floats, seed: int) -> float:
    """How often dice of these shares [prompt, side] are as far from what they should show, by chi-square over sides."""
    rng = np.random.default_rng(seed)
    expected = (counts.sum(1, keepdims=True) * share).sum(0)
    drawn = sum(
        rng.multinomial(int(n), one / one.sum(), size=DRAWS) for n, one in zip(counts.sum(1), share, strict=True)
    )
    came, could = (
        ((some - expected) ** 2 / np.maximum(expected, 1e-9)).sum(-1) for some in (counts.sum(0), np.asarray(drawn))
    )
    return float((could >= came - 1e-9).mean())
