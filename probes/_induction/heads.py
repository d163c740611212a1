"""The heads that look at what came after the last time of the same token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp import Claim, Figure, Finding, Lab, Model, Row, same_as
from interp.analysis import HEAD_KINDS as KINDS
from interp.analysis import attention_paid, score_heads
from interp.stats import estimate_mean

from . import LOOKS, PAID, Heads
from .sequences import Floats, Ids

Scores = dict[str, Float[Tensor, "layer head"]]

LOOK_BACK = Claim(
    "Some heads look at what came after the last time of the same token.",
    expects="greater",
    unit=PAID,
    margin=LOOKS,
    answers=True,
    measure="Mean attention paid there by the heads that score highest in other sequences, less that of the same heads "
    "to the same places where the second copy is in another order.",
    caveat="Attention shows where a head looks, and not what it does with it: the next finding asks that.",
)


def mean_scores(model: Model, sequences: Sequence[Ids]) -> Scores:
    """Mean scores over sequences of all lengths."""
    found = [score_heads(model, some).scores for some in _by_length(sequences)]
    return {kind: torch.cat([scores[kind] for scores in found]).mean(0) for kind in KINDS}


def choose_heads(scores: Scores, share: float) -> Heads:
    """The heads of the highest induction score."""
    score = scores["induction"]
    best = score.flatten().argsort(descending=True)[: max(2, round(share * score.numel()))]
    return [divmod(int(i), score.shape[1]) for i in best]


def _by_length(sequences: Sequence[Ids]) -> list[list[Ids]]:
    """Neighbours of one length together, in order."""
    out: list[list[Ids]] = []
    for ids in sequences:
        if out and len(out[-1][0]) == len(ids):
            out[-1].append(ids)
        else:
            out.append([ids])
    return out


def paid_back(model: Model, heads: Heads, sequences: Sequence[Ids]) -> Floats:
    """Mean attention of these heads to the place behind the one that is a copy back, for each sequence."""
    layers, columns = (torch.tensor(part) for part in zip(*heads, strict=True))
    out = []
    for some in _by_length(sequences):
        length = len(some[0]) // 2
        queries = torch.arange(length + 1, 2 * length + 1)
        paid = attention_paid(model, some, queries, {"induction": queries - length + 1})["induction"]
        out.append(paid[:, layers, columns].mean(1))
    return torch.cat(out).double().numpy()


def look_back(
    lab: Lab,
    heads: Heads,
    judging: list[Ids],
    shuffled: list[Ids],
    scores: Scores,
) -> Finding:
    """Do the chosen heads look behind the last time of the same token, in sequences that did not choose them?"""
    paid, paid_shuffled = (paid_back(lab.model, heads, some) for some in (judging, shuffled))
    rows: list[Row] = [
        {"kind of head": kind, "layer": layer, "head": head, "score (share of attention)": float(mean[layer, head])}
        for kind, mean in scores.items()
        for layer in range(mean.shape[0])
        for head in range(mean.shape[1])
    ]
    named = ", ".join(f"{layer}.{head}" for layer, head in heads)
    return LOOK_BACK.answer(
        estimate_mean(paid - paid_shuffled, unit=PAID, over="sequence", bounds=(-1.0, 1.0), seed=lab.seed),
        same_as(PAID, "in a second copy of another order"),
        measure=f"In order they pay {paid.mean():.2g}, in another order {paid_shuffled.mean():.2g}. The {len(heads)} "
        f"heads are (layer.head): {named}.",
        table=rows,
        figure=Figure(
            "head_grid",
            x="head",
            y="layer",
            z="score (share of attention)",
            facet="kind of head",
            caption="Mean attention, from each token of the second copy, to the token before it (previous), to the "
            "same token in the first copy (duplicate), and to the one behind that (induction).",
        ),
    )
