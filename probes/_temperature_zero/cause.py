"""Part (c): the cause. The model's own sums in other orders, and the same texts with one order for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from interp import Claim, Control, Figure, Finding, Lab, NotAsked, Row, measured, same_as
from interp.stats import estimate_mean, proportion

from . import CAUSE, PARTED
from .compare import Compared, Pair, compare_ways, parts
from .one_order import linear_layers, one_order
from .sums import add_in_orders, products_of, whole_numbers
from .ways import WITH_MATES, write_texts

ORDERS = 20
ROWS = "share of sums"

OWN_SUMS = Claim(
    "The model's own sums depend on the order in which they are added up.",
    expects="greater",
    margin=0.5,
    unit=ROWS,
    part=CAUSE,
    arithmetic=True,
    measure="Share of logits that come out differently in random orders, in fp32.",
    caveat="A batch, a kernel, a cache or a thread count decides in which order a processor adds. This is arithmetic: "
    "floats round after every step, and hold whole numbers exactly.",
    subject="machine",
)
SAME_BITS = Claim(
    "Added up in one fixed order, batch mates change the bits of fewer prompts.",
    expects="less",
    unit=PARTED,
    part=CAUSE,
    answers=True,
    measure="Share of prompts whose logits have other bits in fp32 in a batch than alone, where every linear layer "
    "takes one text at a time, less that share with the usual products, prompt by prompt.",
    caveat="This ties the bits to the linear layers' products. Padding and the cache change sums of attention, "
    "too, which are left as they are.",
    subject="machine",
)
SAME_TEXTS = Claim(
    "Added up in one fixed order, batch mates change the text of fewer prompts.",
    expects="less",
    unit=PARTED,
    part=CAUSE,
    measure="The same, of texts that part in bf16.",
    caveat="Few texts part because of batch mates alone.",
    subject="machine",
)
CLAIMS = [OWN_SUMS, SAME_BITS, SAME_TEXTS]


def own_sums(lab: Lab, prompts: Sequence[str]) -> Finding:
    """A dot product of the model's, in other orders; and whole numbers, whose sums are exact."""
    terms = products_of(lab.model, list(prompts), 32)
    orders = ORDERS // 2 if lab.quick else ORDERS
    fine, coarse, whole = (
        add_in_orders(values, dtype, name, orders=orders, seed=lab.seed)
        for values, dtype, name in (
            (terms, torch.float32, "fp32"),
            (terms, torch.bfloat16, "bf16"),
            (whole_numbers(terms), torch.float32, "whole numbers"),
        )
    )
    table: list[Row] = [
        {
            "terms": sums.name,
            "sum": i + 1,
            "largest less smallest sum": float(sums.spread[i]),
            "exact sum": float(sums.exact[i]),
        }
        for sums in (fine, whole)
        for i in range(len(sums.exact))
    ]
    return OWN_SUMS.answer(
        proportion(fine.differ, unit=ROWS, over="sum"),
        Control(
            "the same terms as whole numbers, which floats hold exactly",
            estimate_mean(np.array(whole.differ, float), unit=ROWS, over="sum", bounds=(0.0, 1.0), exact=True),
        ),
        measure=f"Each is a sum of {terms.shape[1]} terms, in {orders} orders. Their spread is "
        f"{float(fine.spread.median()):.1g} in fp32, in bf16 it is {float(coarse.spread.median()):.1g}.",
        table=table,
        figure=Figure(
            "points",
            x="sum",
            y="largest less smallest sum",
            group="terms",
            caption="How far the sums of one logit's terms lie apart over random orders, for each of the logits.",
        ),
    )


def in_one_order(
    lab: Lab, claim: Claim, hf: Any, prompts: Sequence[str], n: int, usual: Sequence[Compared]
) -> Finding | NotAsked:
    """The intervention: the same prompts, alone and with batch mates, with a product that no batch mate can change."""
    test, name = (_other_bits, "other bits") if claim is SAME_BITS else (parts, "another text")
    if not linear_layers(hf):
        return claim.not_asked("because this model has no linear layers that are modules of their own")
    plain = next(compared for compared in usual if compared.way == WITH_MATES.name).pairs[: len(prompts)]
    usually = np.array([float(test(pair)) for pair in plain])
    if not usually.any():
        return claim.not_asked(f"because with the usual products, too, batch mates give no prompt {name} here")
    with one_order(hf):
        tell = lab.tell("adding in one order")
        *_, compared = compare_ways(usual[0].dtype, write_texts(lab.model, hf, prompts, n), hf, [WITH_MATES], tell)
    fixed = np.array([float(test(pair)) for pair in compared.pairs])
    by_order = measured(
        {"the usual": usually, "one fixed": fixed},
        by=("order of adding up",),
        value=f"{name} ({PARTED})",
        unit=PARTED,
        over="prompt",
        bounds=(0.0, 1.0),
    )
    return claim.answer(
        estimate_mean(fixed - usually, unit=PARTED, over="prompt", bounds=(-1.0, 1.0), seed=lab.seed),
        same_as(PARTED, "with the usual products"),
        measure=f"With the usual ones {usually.sum():.0f} of {len(usually)}, in one order {fixed.sum():.0f}.",
        table=by_order.rows(),
        figure=by_order.dots(
            y="order of adding up", caption=f"For how many prompts batch mates give {name}; over prompts."
        ),
    )


def _other_bits(pair: Pair) -> bool:
    return not pair.same_bits
