"""Part (b): who carries size to the noun: attention to its adjective, layer by layer and head by head; features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import (
    Claim,
    Control,
    Edit,
    Estimate,
    Figure,
    Finding,
    Lab,
    Measured,
    Model,
    NotAsked,
    Row,
    set_beforehand,
    zero,
)
from interp.analysis import ReadAhead, last_activations, others_like, parts_written
from interp.edits import knock_out, only
from interp.saes import attach_sae, site_of
from interp.stats import estimate_crossed, max_t

from . import CARRIED, RIGHT
from .phrases import TEMPLATES, Vectors, Words, prompts_of
from .size import added, direction_of, tell_apart

LOST = "share of the size difference"
CHOSEN = 0.05  # of the heads below the layer that is looked at
ASKED = TEMPLATES[:2]
TOP = 8
QUARTER = 0.25
Heads = list[tuple[int, int]]

BY_ATTENTION = Claim(
    "Size reaches the noun by attention to its adjective, and by nothing else.",
    expects="equal",
    margin=0.05,
    unit=LOST,
    part=CARRIED,
    arithmetic=True,
    measure="What is left of the difference when no head lets the noun see its adjective. There is no other way from "
    "one token to the next, so that this must hold: it tests the cut.",
)
NOT_THE_CUT = Claim(
    "Negative control: kept from the word before the adjective instead, the noun keeps more than half of its size.",
    expects="greater",
    unit=LOST,
    part=CARRIED,
    measure="What is left of the difference when no head lets the noun see that word: the same cut, one place farther. "
    "It may be more than all: the attention that is cut goes to other words, and the adjective is one of them.",
)
EARLIER = Claim(
    "Most of it comes in the earlier half of these layers.",
    expects="greater",
    unit=LOST,
    part=CARRIED,
    measure="What single layers lose, added up. The halves are parts of one total, and paired.",
    caveat="Layers that step in for each other lose little by themselves.",
)
FEW_HEADS = Claim(
    "A few heads carry size from the adjective to the noun: a quarter of it more than as many others.",
    expects="greater",
    margin=QUARTER,
    unit=LOST,
    part=CARRIED,
    answers=True,
    measure="What is lost of the difference along the direction of size when, in the heads that write most of it in "
    "other phrases, the noun does not see its adjective.",
    caveat="Heads were chosen by what they write directly; others may feed them.",
)
FEATURES = Claim(
    "Features of the sparse autoencoder at the noun tell large from small, for held-out words.",
    expects="greater",
    unit=RIGHT,
    part=CARRIED,
    measure="As in part (a), by the activations of the features.",
    caveat="A feature that differs need not be about size: see what else it fires on (interp features show).",
)
CLAIMS = [BY_ATTENTION, NOT_THE_CUT, EARLIER, FEW_HEADS, FEATURES]


@dataclass(frozen=True)
class SizePhrases:
    """Held-out phrases at one layer, and the direction of size that the others gave."""

    model: Model
    layer: int
    direction: Float[Tensor, " d_model"]
    choosing: list[str]
    judging: list[str]
    nouns: int

    @property
    def site(self) -> str:
        return self.model.residual(self.layer)

    def difference(self, edits: Sequence[dict[str, Edit]]) -> list[NDArray[np.float64]]:
        """Along the direction, large less small [noun, adjective], in the phrases that judge, under each of the edits.

        What each adjective adds; the mean is the whole. The edits are of what the noun looks at, the last token.
        """
        ahead, along = ReadAhead(self.model, self.judging, batch_size=64), list[Tensor]()
        for edit in edits:
            with self.model.edit(edit) if edit else nullcontext():
                acts = ahead.capture([self.site])[self.site]
            along.append((acts.float().cpu() @ self.direction).double())
        return [added(values.view(len(ASKED), -1, self.nouns).mean(0)).T.numpy() for values in along]


def admit(model: Model, words: Words, vectors: Vectors, layer: int) -> SizePhrases:
    """The direction of the first halves of adjectives and nouns; the second halves are judged."""
    half_a, half_n = len(words.small) // 2, len(words.nouns) // 2
    first = (*words.small[:half_a], *words.large[:half_a])
    second = (*words.small[half_a : 2 * half_a], *words.large[half_a : 2 * half_a])
    at = vectors.of(first, layer)[:, :, :half_n]
    nouns = words.nouns[half_n : 2 * half_n]
    prompts = [
        [p for template in ASKED for p in prompts_of(adjectives, which, template)]
        for adjectives, which in ((first, words.nouns[:half_n]), (second, nouns))
    ]
    return SizePhrases(model, layer, direction_of(at), prompts[0], prompts[1], len(nouns))


def carried(lab: Lab, size_phrases: SizePhrases) -> Iterator[Finding | NotAsked]:
    """What attention does, in all heads, in one layer, in a few heads: shares of the whole [noun, adjective]."""
    (clean,) = size_phrases.difference([{}])
    below = list(range(size_phrases.layer))
    if not over_adjectives(clean).low > 0:
        for claim in (BY_ATTENTION, NOT_THE_CUT, EARLIER, FEW_HEADS):
            yield claim.not_asked("because along the direction held-out adjectives lie no farther apart than by chance")
        return

    def lost(edits: Sequence[dict[str, Edit]]) -> list[NDArray[np.float64]]:
        return [(clean - left) / clean.mean() for left in size_phrases.difference(edits)]

    def hidden(key: int) -> dict[str, Edit]:
        return {f"blocks.{layer}.attn.hook_pattern": knock_out(keys=key, queries=-1) for layer in below}

    lab.progress("cutting the noun's attention to its adjective", 0, 1)
    by_all, by_other, *by_layer = lost([hidden(-2), hidden(-3), *({s: edit} for s, edit in hidden(-2).items())])
    whole = clean / clean.mean()
    yield BY_ATTENTION.answer(
        estimate_crossed([whole - by_all], unit=LOST, over="adjective", exact=True), zero(LOST, "nothing of it")
    )
    yield NOT_THE_CUT.answer(over_adjectives(whole - by_other), set_beforehand(0.5, LOST, "half of it"))
    yield _earlier(lab, np.stack(by_layer)) if len(below) > 1 else EARLIER.not_asked("because there is one layer")
    heads, shape = choose_heads(size_phrases)
    if 2 * len(heads) > shape[0] * shape[1]:
        yield FEW_HEADS.not_asked(f"because there are no more than {shape[0] * shape[1]} heads below this layer")
        return
    draws = range(4 if lab.quick else 8)
    sets = [heads, *(others_like(heads, shape, seed=lab.seed * 100 + i) for i in draws)]
    chosen, *of_others = lost([_without(some) for some in sets])
    others = np.stack([values.mean(0) for values in of_others])
    named = ", ".join(f"{layer}.{head}" for layer, head in heads)
    yield FEW_HEADS.answer(
        over_adjectives(chosen),
        Control("as many other heads of the same layers", over_adjectives(others)),
        paired=over_adjectives(chosen.mean(0) - others),
        measure=f"Layer {size_phrases.layer}, {len(heads)} heads (layer.head: {named}); the others are {len(draws)} "
        "draws.",
    )


def over_adjectives(values: NDArray[np.float64]) -> Estimate:
    """Mean of [noun or draw, adjective] for others of both."""
    return estimate_crossed([values], unit=LOST, over="adjective", across="noun or draw")


def _without(heads: Heads) -> dict[str, Edit]:
    """Edits that hide the adjective from the noun in these heads."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    return {
        f"blocks.{layer}.attn.hook_pattern": only(knock_out(keys=-2, queries=-1), heads=of_layer)
        for layer, of_layer in by_layer.items()
    }


def choose_heads(size_phrases: SizePhrases) -> tuple[Heads, tuple[int, int]]:
    """The heads below the layer that write most along the direction, and how many layers and heads there are."""
    model, prompts = size_phrases.model, size_phrases.choosing
    sites = [f"blocks.{layer}.attn.hook_z" for layer in range(size_phrases.layer)]
    acts = last_activations(model, prompts, sites)
    direction = size_phrases.direction.to(model.device).expand(len(prompts), -1)
    written = torch.stack([parts_written(model, acts[s], i, "attn", direction)[0] for i, s in enumerate(sites)], 1)
    by_class = written.cpu().view(len(ASKED), 2, -1, *written.shape[1:])
    gap = by_class[:, 1].mean((0, 1)) - by_class[:, 0].mean((0, 1))
    best = gap.flatten().argsort(descending=True)[: max(2, round(CHOSEN * gap.numel()))].tolist()
    return [divmod(i, gap.shape[1]) for i in best], (gap.shape[0], gap.shape[1])


def _earlier(lab: Lab, lost: NDArray[np.float64]) -> Finding:
    """[layer, noun, adjective]"""
    p = max_t(lost.mean(1).T, seed=lab.seed)
    by_layer = Measured(
        ("layer",),
        "lost (share of the size difference)",
        {(layer,): over_adjectives(at) for layer, at in enumerate(lost)},
    )
    table = [row | {"p, all layers together": float(p[i])} for i, row in enumerate(by_layer.rows())]
    half = len(lost) // 2
    early, late = lost[:half].sum(0), lost[half:].sum(0)
    return EARLIER.answer(
        over_adjectives(early),
        Control("the later half", over_adjectives(late)),
        paired=over_adjectives(early - late),  # parts of one total: what one half has more, the other has less
        measure=f"The most is lost at layer {int(lost.mean((1, 2)).argmax())}; {int((p < 0.05).sum())} of {len(p)} "
        "layers lose or gain more than chance allows (p < 0.05, corrected for all layers).",
        table=table,
        figure=by_layer.lines(
            x="layer",
            chance=0.0,
            caption="What is lost when the noun does not see its adjective in one layer. Bands over adjectives and "
            "nouns.",
        ),
    )


def features(lab: Lab, words: Words, folder: Path | None, n_perm: int) -> Finding | NotAsked:
    """Which features of a sparse autoencoder differ between large and small, and do they tell held-out phrases?"""
    if folder is None:
        return FEATURES.not_asked("because no sparse autoencoder of this model came (--sae), and none ships with it")
    sae = attach_sae(folder, lab.model)
    site = site_of(sae)
    rows = []
    for template in TEMPLATES:
        acts = last_activations(lab.model, prompts_of(words.sized, words.nouns, template), site)
        rows.append(_encode(sae, acts[site]))
    at = torch.stack(rows).view(len(TEMPLATES), len(words.sized), len(words.nouns), -1)
    alive = (at > 0).flatten(0, 2).any(0).nonzero().flatten()
    apart = tell_apart(at[..., alive], n_perm, lab.seed)
    best = direction_of(at).abs().argsort(descending=True)[:TOP].tolist()
    n = len(words.small)
    table: list[Row] = [
        {"feature": str(i), "after": kind, "mean activation": float(part[..., i].mean())}
        for i in best
        for kind, part in (("small ones", at[:, :n]), ("large ones", at[:, n:]))
    ]
    return FEATURES.answer(
        apart.estimate,
        Control("adjectives dealt to the classes at random", apart.null),
        measure=f"{len(alive)} features fire at {site}.",
        table=table,
        figure=Figure(
            "bars",
            x="feature",
            y="mean activation",
            group="after",
            caption="The features that differ most at the noun, by the kind of adjective before it.",
        ),
    )


def _encode(sae: Any, rows: Tensor) -> Tensor:
    with torch.no_grad():
        return sae.encode(rows.to(sae.device, sae.dtype)).float().cpu()
