"""Does temperature 0 remove all randomness?

Paper: Thinking Machines Lab 2025, "Defeating Nondeterminism in LLM Inference".

Question. At temperature 0 a model always takes the likeliest token: no die is thrown. And yet the same prompt, sent
twice to the same service, often comes back with two different texts. A beginner's course says that temperature 0 does
not remove all randomness. What is left, and where does it come from?

- (a) The same texts are computed in ways that should not matter: again; in a batch with others; padded; from the cache;
  by another attention kernel; with other threads; in fp32 and in bf16 (numbers of 32 and of 16 bits). Do the logits
  change, and would the text?
- (b) Where texts part: how close were the two best tokens?
- (c) The cause: the model's own sums, added up in other orders.
- (d) What is random: sampling at temperature 1, and what happens when two tokens tie.

What counts as yes (shares of prompts, intervals over prompts):

- the same call again gives the same bits for more than 65 % of the prompts;
- in fp32, some way changes some bits for more than half of them;
- in bf16, ways that should not matter change the text of more prompts than in fp32;
- where texts part, the two best tokens are closer than elsewhere.

What could fool us:

- A kernel that is always called in the same way gives the same bits: a laptop hides what a service shows, which batches
  whatever comes at the same time. So the ways are gone through here on purpose.
- Padding with wrong positions changes answers by far more than rounding. Positions and masks are given.
- One text may part early and stay parted: prompts are counted, not tokens, and only as far as the text is what the
  reference itself would write.
- A comparison that sees nothing, or too much. Two seeds of sampling must give two texts, one seed one text; in fp64
  (64 bits) no text may part; sums of whole numbers, which floats hold exactly, may not depend on their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from interp import Control, Estimate, Figure, Finding, Lab, Row, UserError, chat_prompt, has_chat, probe
from interp.stats import known, proportion

from ._temperature_zero import CAUSE, CHANGES, CONTROLS, PARTED
from ._temperature_zero.compare import Compared, compare_precisions, compare_ways, leads, parts, share
from ._temperature_zero.sums import Sums, add_in_orders, products_of, whole_numbers
from ._temperature_zero.ways import ASKED, PROMPTS, REPEAT, alone, cast, ways_for, write_texts

SAME = 0.65  # of prompts: what eight of them can show
FEWER, FEW = 8, 0.35  # prompts in fp64 and in quick runs, and the share of prompts that so many can rule out
ORDERS = 20
ROWS = "share of sums"


@probe()
def temperature_zero(lab: Lab, *, new_tokens: int = 12) -> Iterator[Finding]:
    """Compute the same thing in several ways, and look at what changes.

    Args:
        new_tokens: how many tokens to write behind every prompt, 4 or more
    """
    if new_tokens < 4:
        raise UserError(f"--new-tokens {new_tokens}; expected 4 or more")
    prompts, n = _prompts(lab), min(new_tokens, 8) if lab.quick else new_tokens
    ways = ways_for(lab.model)
    full = cast(lab.model, torch.float32)
    exact = compare_ways(lab.model, full, "fp32", prompts, n, ways, lab.tell("computing in fp32"))
    low = cast(lab.model, torch.bfloat16)
    coarse = compare_ways(lab.model, low, "bf16", prompts, n, ways, lab.tell("computing in bf16"))
    lab.progress("comparing precisions", 0, 1)
    texts, _ = write_texts(lab.model, full, prompts[::2], n)
    between = compare_precisions("bf16", texts, list(alone(full, texts)), low)
    del low
    yield from _changes(exact, coarse, between)
    yield from _margins(coarse, lab.seed)
    lab.progress("adding up in other orders", 0, 1)
    yield from _sums(lab, prompts)
    yield from _random(lab, prompts, n)
    yield from _ties(full, prompts, lab)
    del full
    wide = cast(lab.model, torch.float64)
    tell = lab.tell("computing in fp64")
    yield _never(compare_ways(lab.model, wide, "fp64", prompts[:FEWER], n, ways, tell))


def _prompts(lab: Lab) -> list[str]:
    chat = [chat_prompt(lab.model, message) for message in ASKED] if has_chat(lab.model) else []
    every = [*PROMPTS, *chat]
    return every[:: len(every) // FEWER] if lab.quick else every


def _others(compared: Sequence[Compared]) -> list[Compared]:
    return [one for one in compared if one.way != REPEAT.name]


def _changes(exact: list[Compared], coarse: list[Compared], between: Compared) -> Iterator[Finding]:
    """Part (a)."""
    table = [one.row() for one in (*exact, *coarse, between)]
    again = [one for one in exact if one.way == REPEAT.name]
    yield Finding(
        claim="The same call again gives the same bits.",
        estimate=share(again, lambda pair: pair.same_bits),
        control=Control("what so many prompts can show", known(SAME, unit=PARTED, why="set beforehand")),
        expects="greater",
        part=CHANGES,
        answers=True,
        measure="Share of prompts whose logits are bit for bit the same when the same call is made again, in fp32.",
        caveat="On a GPU, some kernels add up in an order that depends on timing; then this is the first to fail.",
        table=table,
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
    changed = share(_others(exact), lambda pair: not pair.same_bits)
    yield Finding(
        claim="In fp32, how it is computed changes some bits for more than half of the prompts.",
        estimate=changed,
        control=Control("half of the prompts", known(0.5, unit=PARTED, why="set beforehand")),
        expects="greater",
        part=CHANGES,
        measure="Share of prompts for which any of the other ways gives other bits. The largest difference of a logit "
        f"is {max(p.largest for one in _others(exact) for p in one.pairs):.2g} nats.",
    )
    ours, theirs = (share(_others(some), parts) for some in (coarse, exact))
    yield Finding(
        claim="In bf16, ways that should not matter change the text of more prompts than in fp32.",
        estimate=ours,
        control=Control("the same ways in fp32", theirs),
        expects="greater",
        part=CHANGES,
        answers=True,
        measure="Share of prompts whose greedy text parts in any of the ways. Each precision writes its own texts.",
        caveat=f"Between the two precisions themselves, {sum(between.parted)} of {len(between.pairs)} texts part.",
    )


def _margins(coarse: list[Compared], seed: int) -> Iterator[Finding]:
    """Part (b). Nothing to say where hardly any text parts."""
    found = leads(_others(coarse), seed)
    if found is None:
        return
    yield Finding(
        claim="Texts part where the two best tokens are close.",
        estimate=found.estimate,
        control=Control("before they part, and in texts that do not", found.control),
        paired=found.gap,
        expects="less",
        part="(b) Where texts part",
        answers=True,
        measure="How far the best token's logit is ahead of the second's, for prompts whose text parts in bf16.",
        caveat="A text that parts has taken another word once; all that follows may then be different.",
    )


def _sums(lab: Lab, prompts: Sequence[str]) -> Iterator[Finding]:
    """Part (c): a dot product of the model's, in other orders; and whole numbers, whose sums are exact."""
    terms = products_of(lab.model, list(prompts), 32)
    orders = ORDERS // 2 if lab.quick else ORDERS
    ours, coarse = (
        add_in_orders(terms, dtype, name, orders=orders, seed=lab.seed)
        for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16"))
    )
    whole = add_in_orders(whole_numbers(terms), torch.float32, "whole numbers", orders=orders, seed=lab.seed)
    differ, exact = (_share(one) for one in (ours, whole))
    rows: list[Row] = [
        {
            "terms": one.name,
            "sum": i + 1,
            "largest less smallest sum": float(one.spread[i]),
            "exact sum": float(one.exact[i]),
        }
        for one in (ours, whole)
        for i in range(len(one.exact))
    ]
    yield Finding(
        claim="The model's own sums depend on the order in which they are added up.",
        estimate=differ,
        control=Control("the same terms as whole numbers, which floats hold exactly", exact),
        expects="greater",
        margin=0.5,
        part=CAUSE,
        answers=True,
        measure=f"Share of logits ({terms.shape[1]} terms each) that come out differently in {orders} random orders, "
        f"in fp32. Their spread is {float(ours.spread.median()):.1g} in fp32, in bf16 it is "
        f"{float(coarse.spread.median()):.1g}.",
        caveat="A batch, a kernel, a cache or a thread count decides in which order a processor adds.",
        table=rows,
        figure=Figure(
            "points",
            x="sum",
            y="largest less smallest sum",
            group="terms",
            caption="How far the sums of one logit's terms lie apart over random orders, for each of the logits.",
        ),
    )


def _share(sums: Sums) -> Estimate:
    return proportion(sums.differ, unit=ROWS, over="sum")


def _random(lab: Lab, prompts: Sequence[str], n: int) -> Iterator[Finding]:
    """Part (d): sampling, with two seeds and with one."""
    few = list(prompts)[:8]

    def sample(seed: int) -> list[list[int]]:
        return [
            lab.model.generate([prompt], max_new_tokens=min(n, 8), temperature=1.0, seed=seed).ids[0] for prompt in few
        ]

    first, again, other = sample(lab.seed), sample(lab.seed), sample(lab.seed + 1)
    two, one = (
        proportion([a != b for a, b in zip(first, some, strict=True)], unit=PARTED, over="prompt")
        for some in (other, again)
    )
    yield Finding(
        claim="Positive control: at temperature 1, another seed gives another text.",
        estimate=two,
        control=Control("the same seed again", one),
        expects="greater",
        part=CONTROLS,
        measure="Share of prompts whose sampled text differs.",
    )


def _ties(hf: object, prompts: Sequence[str], lab: Lab) -> Iterator[Finding]:
    """Part (d): two tokens with exactly equal logits."""
    rows = lab.model.encode(list(prompts))
    smaller = []
    for row in rows:
        with torch.no_grad():
            logits = hf(torch.tensor([row], device=lab.model.device)).logits[0, -1].clone()  # type: ignore[operator]
        best, second = logits.topk(2).indices.tolist()
        logits[second] = logits[best]
        smaller.append(int(logits.argmax()) == min(best, second))
    yield Finding(
        claim="Where two tokens tie exactly, greedy decoding takes the one of the smaller number.",
        estimate=proportion(smaller, unit=PARTED, over="prompt"),
        control=Control("what so many prompts can show", known(SAME, unit=PARTED, why="set beforehand")),
        expects="greater",
        part="(d) What is random, and ties",
        measure="The second best token's logit is set to the best one's, and PyTorch's argmax is asked.",
        caveat="A rule and no chance, and of this library and device alone: another may take the other one.",
    )


def _never(wide: list[Compared]) -> Finding:
    """Where rounding hardly exists, nothing may part: what parts in the other precisions is rounding."""
    return Finding(
        claim="Negative control: in fp64, no text parts.",
        estimate=share(_others(wide), parts),
        control=Control("what so few prompts can show", known(FEW, unit=PARTED, why="set beforehand")),
        expects="less",
        part=CONTROLS,
        measure="The same ways with 64 bits, where rounding is a thousand million times finer: the largest difference "
        f"of a logit is {max(p.largest for one in wide for p in one.pairs):.1g} nats.",
        table=[one.row() for one in wide],
    )
