"""Does temperature 0 remove all randomness?

Paper: Thinking Machines Lab 2025, "Defeating Nondeterminism in LLM Inference".

Question. At temperature 0 a model always takes the likeliest token: no die is thrown. And yet the same prompt, sent
twice to the same service, often comes back with two different texts. A beginner's course says that temperature 0 does
not remove all randomness. What is left, and where does it come from?

- (a) The same texts are computed in ways that should not matter: again; in a batch with others; padded; from the cache;
  by another attention kernel; with other threads; in fp32 and in bf16 (numbers of 32 and of 16 bits). Do the logits
  change, and would the text?
- (b) Where texts part: how close were the two best tokens?
- (c) The cause: the model's own sums, added up in other orders; and an intervention: with a product that adds up in one
  fixed order, whatever is in the batch, do batch mates still change anything?
- (d) What is random: sampling at temperature 1, and what happens when two tokens tie.

What counts as yes (shares of prompts, intervals over prompts):

- the same call again gives the same bits for more than 60 % of the prompts;
- in fp32, some way changes some bits for more than half of them;
- in bf16, ways that should not matter change the text of more prompts than in fp32;
- where texts part, the two best tokens are closer than elsewhere in the same text, for more than half of the prompts
  whose text parts;
- with a product of one fixed order, batch mates change the bits of fewer prompts than with the usual one.

What could fool us:

- A kernel that is always called in the same way gives the same bits: a laptop hides what a service shows, which batches
  whatever comes at the same time. So the ways are gone through here on purpose.
- Padding with wrong positions changes answers by far more than rounding. Positions and masks are given.
- One text may part early and stay parted: prompts are counted, not tokens, and only as far as the text is what the
  reference itself would write.
- A comparison that sees nothing, or too much. Two seeds of sampling must give two texts, one seed one text; in fp64
  (64 bits) no text may part.
- What must be so. That floats depend on the order of a sum, that whole numbers do not, which of two equal tokens an
  argmax takes, and that a small difference turns only a small lead is arithmetic, for any model; it is shown, and
  answers nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import torch

from interp import (
    Claim,
    Figure,
    Finding,
    Lab,
    Least,
    NotAsked,
    chat_prompt,
    has_chat,
    measured,
    probe,
    same_as,
    set_beforehand,
)
from interp.stats import estimate_mean, proportion

from ._temperature_zero import CHANGES, CONTROLS, PARTED, SAME, cause, chance
from ._temperature_zero.compare import Compared, compare_precisions, compare_ways, in_any, leads, parts, share
from ._temperature_zero.ways import ASKED, PROMPTS, REPEAT, cast, ways_for, write_texts

FEWER, FEW = 8, 0.4  # prompts in fp64 and in quick runs, and the share of prompts that so many can rule out
FEWEST = 2  # prompts whose text parts

SAME_AGAIN = Claim(
    "The same call again gives the same bits.",
    expects="greater",
    unit=PARTED,
    part=CHANGES,
    measure="Share of prompts whose logits are bit for bit the same when the same call is made again, in fp32.",
    caveat="It tells of this machine, whatever the model knows. On a GPU, some kernels add up in an order that depends "
    "on timing; then this is the first to fail.",
    subject="machine",
)
BITS_CHANGE = Claim(
    "In fp32, how it is computed changes some bits for more than half of the prompts.",
    expects="greater",
    unit=PARTED,
    part=CHANGES,
    measure="Share of prompts for which any of the other ways gives other bits.",
    subject="machine",
)
TEXTS_CHANGE = Claim(
    "In bf16, ways that should not matter change the text of more prompts than in fp32.",
    expects="greater",
    unit=PARTED,
    part=CHANGES,
    answers=True,
    measure="Share of prompts whose greedy text parts in any of the ways, in bf16 less in fp32, prompt by prompt. Each "
    "precision writes its own texts.",
    subject="machine",
)
CLOSE = Claim(
    "Texts part where the two best tokens are close.",
    expects="greater",
    unit=PARTED,
    part="(b) Where texts part",
    arithmetic=True,
    measure="Of the prompts whose text parts in bf16, the share in which the best token's logit is less ahead of the "
    "second's there than at the median place before, and in the ways in which the text does not part. A parting "
    "anywhere gives a half.",
    caveat="Which token is best can change only where its lead is at most twice the largest difference of a logit, and "
    "rounding moves a logit little: this shows how close, and hardly could have been otherwise.",
    subject="machine",
)
NEVER = Claim(
    "Negative control: in fp64, no text parts.",
    expects="less",
    unit=PARTED,
    part=CONTROLS,
    measure="The same ways with 64 bits, where rounding is a thousand million times finer; but for what a model's own "
    "code computes with 32 all the same, such as norms and the softmax of one way of attention.",
    subject="machine",
)


@probe(
    claims=[SAME_AGAIN, BITS_CHANGE, TEXTS_CHANGE, CLOSE, *cause.CLAIMS, chance.OTHER_SEED, chance.TIES, NEVER],
    long=True,
)
def temperature_zero(lab: Lab, *, new_tokens: Annotated[int, Least(4)] = 12) -> Iterator[Finding | NotAsked]:
    """Compute the same thing in several ways, and look at what changes.

    Args:
        new_tokens: how many tokens to write behind every prompt, 4 or more
    """
    prompts, n = _prompts(lab), min(new_tokens, 8) if lab.quick else new_tokens
    ways = ways_for(lab.model)
    full = cast(lab.model, torch.float32)
    written = write_texts(lab.model, full, prompts, n)
    exact = compare_ways("fp32", written, full, ways, lab.tell("computing in fp32"))
    low, others = cast(lab.model, torch.bfloat16), [way for way in ways if way is not REPEAT]
    coarse = compare_ways("bf16", write_texts(lab.model, low, prompts, n), low, others, lab.tell("computing in bf16"))
    between = compare_precisions("bf16", written, low)
    yield from _changes(exact, coarse, between, lab.seed)
    yield _where_they_part(coarse)
    lab.progress("adding up in other orders", 0, 1)
    yield cause.own_sums(lab, prompts)
    # In bf16 few kernels change bits, and in fp32 hardly any text parts.
    yield cause.in_one_order(lab, cause.SAME_BITS, full, prompts[:FEWER], n, exact)
    yield cause.in_one_order(lab, cause.SAME_TEXTS, low, prompts[:FEWER], n, coarse)
    del low
    yield chance.other_seed(lab, prompts, n)
    yield chance.ties(full, prompts, lab)
    del full
    wide = cast(lab.model, torch.float64)
    # as long as it takes to see that nothing parts: 64 bits cost twice as much as 32
    written = write_texts(lab.model, wide, PROMPTS[:FEWER], 4 if lab.quick else n)
    yield _never(compare_ways("fp64", written, wide, others, lab.tell("computing in fp64")))


def _prompts(lab: Lab) -> list[str]:
    chat = [chat_prompt(lab.model, message) for message in ASKED] if has_chat(lab.model) else []
    every = [*PROMPTS, *chat]
    return every[:: len(every) // FEWER] if lab.quick else every


def _other_ways(compared: Sequence[Compared]) -> list[Compared]:
    return [one for one in compared if one.way != REPEAT.name]


def _largest(compared: Sequence[Compared]) -> float:
    return max(pair.largest for one in compared for pair in one.pairs)


def _changes(exact: list[Compared], coarse: list[Compared], between: Compared, seed: int) -> Iterator[Finding]:
    """Part (a)."""
    again = [one for one in exact if one.way == REPEAT.name]
    yield SAME_AGAIN.answer(
        share(again, lambda pair: pair.same_bits),
        set_beforehand(SAME, PARTED, "what so many prompts can show"),
        table=[one.row() for one in (*exact, *coarse, between)],
        figure=Figure(
            "interval_dots",
            x="texts that part (share of prompts)",
            y="way",
            group="precision",
            low="low",
            high="high",
            caption="For how many prompts greedy decoding writes another text when the same thing is computed in "
            "another way. Intervals over prompts.",
        ),
    )
    yield BITS_CHANGE.answer(
        share(_other_ways(exact), lambda pair: not pair.same_bits),
        set_beforehand(0.5, PARTED, "half of the prompts"),
        measure=f"The largest difference of a logit is {_largest(_other_ways(exact)):.2g} nats.",
    )
    parted = {
        name: np.array(in_any(_other_ways(way), parts), float) for name, way in (("bf16", coarse), ("fp32", exact))
    }
    by_precision = measured(
        parted, by=("precision",), value=f"texts that part ({PARTED})", unit=PARTED, over="prompt", bounds=(0.0, 1.0)
    )
    yield TEXTS_CHANGE.answer(
        estimate_mean(parted["bf16"] - parted["fp32"], unit=PARTED, over="prompt", bounds=(-1.0, 1.0), seed=seed),
        same_as(PARTED, "those ways in fp32"),
        measure=f"In bf16 {parted['bf16'].sum():.0f} of {len(parted['bf16'])} texts part, in fp32 "
        f"{parted['fp32'].sum():.0f}.",
        caveat=f"Between the two precisions themselves, {sum(between.parted)} of {len(between.pairs)} texts part.",
        table=by_precision.rows(),
    )


def _where_they_part(coarse: list[Compared]) -> Finding | NotAsked:
    """Part (b). Signs, and no means: leads are skewed, and few texts part."""
    there, elsewhere = leads(_other_ways(coarse))
    if len(there) < FEWEST:
        return CLOSE.not_asked(f"because in bf16 the text of only {len(there)} prompts parts; {FEWEST} are needed")
    return CLOSE.answer(
        proportion(np.less(there, elsewhere), unit=PARTED, over="prompt"),
        set_beforehand(0.5, PARTED, "half: they part anywhere"),
        measure=f"The median lead is {np.median(there):.2g} nats there, and {np.median(elsewhere):.2g} elsewhere.",
        table=[
            {"prompt": i + 1, "place": place, "lead of the best token (nats)": lead}
            for i, pair in enumerate(zip(there, elsewhere, strict=True))
            for place, lead in zip(("where the text parts", "elsewhere"), pair, strict=True)
        ],
    )


def _never(wide: list[Compared]) -> Finding:
    """Where rounding hardly exists, nothing may part: what parts in the other precisions is rounding."""
    return NEVER.answer(
        share(_other_ways(wide), parts),
        set_beforehand(FEW, PARTED, "what so few prompts can show"),
        measure=f"The largest difference of a logit is {_largest(wide):.1g} nats.",
        table=[one.row() for one in wide],
    )
