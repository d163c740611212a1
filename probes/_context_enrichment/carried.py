"""Who carries size to the noun: attention from the noun to its adjective, layer by layer and head by head; features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import Control, Edit, Figure, Finding, Lab, Model, Row
from interp.analysis import others_like, parts_written
from interp.edits import knock_out, only
from interp.saes import attach_sae, site_of
from interp.stats import estimate_crossed, estimate_gap, estimate_mean, known, max_t

from . import CARRIED
from .phrases import TEMPLATES, Vectors, Words, prompts_of
from .size import size_direction, tell_apart

LOST = "share of the size difference"
CHOSEN = 0.05  # of the heads below the layer that is looked at
ASKED = TEMPLATES[:2]
TOP = 8
Heads = list[tuple[int, int]]


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

    def difference(self, prompts: list[str]) -> NDArray[np.float64]:
        """Along the direction, after large adjectives less after small ones, noun by noun."""
        acts = self.model.capture(prompts, self.site, batch_size=64).last(self.site).float().cpu()
        along = (acts @ self.direction).double().view(len(ASKED), 2, -1, self.nouns)
        return (along[:, 1].mean((0, 1)) - along[:, 0].mean((0, 1))).numpy()


def admit(model: Model, words: Words, vectors: Vectors, layer: int) -> SizePhrases:
    """The direction of the first halves of adjectives and nouns; the second halves are judged."""
    half_a, half_n = len(words.small) // 2, len(words.nouns) // 2
    first = (*words.small[:half_a], *words.large[:half_a])
    second = (*words.small[half_a : 2 * half_a], *words.large[half_a : 2 * half_a])
    at = vectors.of(first)[:, :, :half_n, vectors.layers.index(layer)]
    nouns = words.nouns[half_n : 2 * half_n]
    prompts = [
        [p for template in ASKED for p in prompts_of(some, which, template)]
        for some, which in ((first, words.nouns[:half_n]), (second, nouns))
    ]
    return SizePhrases(model, layer, size_direction(at), prompts[0], prompts[1], len(nouns))


def carried(lab: Lab, size_phrases: SizePhrases) -> Iterator[Finding]:
    """Part (b), what attention does."""
    clean = size_phrases.difference(size_phrases.judging)
    below = list(range(size_phrases.layer))

    def left(edits: dict[str, Edit]) -> NDArray[np.float64]:
        with size_phrases.model.edit(edits):
            return size_phrases.difference(size_phrases.judging) / clean.mean()

    def lost(edits: dict[str, Edit]) -> NDArray[np.float64]:
        return clean / clean.mean() - left(edits)

    cut = {layer: {f"blocks.{layer}.attn.hook_pattern": knock_out(keys=-2, queries=-1)} for layer in below}
    yield _all_of_it(lab, left({site: edit for some in cut.values() for site, edit in some.items()}))
    table = []
    for layer in below:
        table.append(lost(cut[layer]))
        lab.progress("cutting the noun's attention to its adjective", layer + 1, len(below))
    yield _by_layer(lab, np.stack(table, 1))
    heads, shape = choose_heads(size_phrases)
    ours = lost(_without(heads))
    others = [
        lost(_without(others_like(heads, shape, seed=lab.seed * 100 + i))) for i in range(4 if lab.quick else 8)
    ]  # fmt: skip
    named = ", ".join(f"{layer}.{head}" for layer, head in heads)
    yield Finding(
        claim="A few heads carry size from the adjective to the noun.",
        estimate=estimate_mean(ours, unit=LOST, over="noun", seed=lab.seed),
        control=Control(
            "as many other heads of the same layers", estimate_crossed([np.stack(others)], unit=LOST, over="noun")
        ),
        paired=estimate_crossed([ours - np.stack(others)], unit=LOST, over="noun"),
        expects="greater",
        part=CARRIED,
        answers=True,
        measure=f"What is lost of the difference along the direction of size at layer {size_phrases.layer} when, in "
        f"the {len(heads)} heads that write most of it in other phrases (layer.head: {named}), the noun does not see "
        "its adjective.",
        caveat="Heads were chosen by what they write directly; others may feed them.",
    )


def _without(heads: Heads) -> dict[str, Edit]:
    """Edits that hide the adjective from the noun in these heads."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    return {
        f"blocks.{layer}.attn.hook_pattern": only(knock_out(keys=-2, queries=-1), heads=some)
        for layer, some in by_layer.items()
    }


def choose_heads(size_phrases: SizePhrases) -> tuple[Heads, tuple[int, int]]:
    """The heads below the layer that write most along the direction, and how many layers and heads there are."""
    model, prompts = size_phrases.model, size_phrases.choosing
    sites = [f"blocks.{layer}.attn.hook_z" for layer in range(size_phrases.layer)]
    acts = model.capture(prompts, sites, batch_size=64)
    direction = size_phrases.direction.to(model.device).expand(len(prompts), -1)
    written = torch.stack([parts_written(model, acts.last(s), i, "attn", direction)[0] for i, s in enumerate(sites)], 1)
    by_class = written.cpu().view(len(ASKED), 2, -1, *written.shape[1:])
    gap = by_class[:, 1].mean((0, 1)) - by_class[:, 0].mean((0, 1))
    best = gap.flatten().argsort(descending=True)[: max(2, round(CHOSEN * gap.numel()))].tolist()
    return [divmod(i, gap.shape[1]) for i in best], (gap.shape[0], gap.shape[1])


def _all_of_it(lab: Lab, left: NDArray[np.float64]) -> Finding:
    return Finding(
        claim="Size reaches the noun by attention to its adjective, and by nothing else.",
        estimate=estimate_mean(left, unit=LOST, over="noun", exact=True, seed=lab.seed),
        control=Control("nothing of it", known(0.0, unit=LOST, why="nothing of it")),
        expects="equal",
        margin=0.05,
        part=CARRIED,
        measure="What is left of the difference when no head lets the noun see its adjective. There is no other way "
        "from one token to the next, so that this also tests the cut.",
    )


def _by_layer(lab: Lab, lost: NDArray[np.float64]) -> Finding:
    """[noun, layer]"""
    p = max_t(lost, seed=lab.seed)
    rows: list[Row] = []
    for layer in range(lost.shape[1]):
        at = estimate_mean(lost[:, layer], unit=LOST, over="noun", seed=lab.seed)
        rows.append({"layer": layer, "lost (share of the size difference)": at.mean, "low": at.low, "high": at.high})
        rows[-1]["p, all layers together"] = float(p[layer])
    most = int(lost.mean(0).argmax())
    half = lost.shape[1] // 2
    # Parts of one total: what one half has more, the other has less.
    pair = estimate_gap(lost[:, :half].sum(1), lost[:, half:].sum(1), unit=LOST, over="noun", seed=lab.seed)
    return Finding(
        claim="Most of it comes in the earlier half of these layers.",
        estimate=pair.estimate,
        control=Control("the later half", pair.control),
        paired=pair.gap,
        expects="greater",
        part=CARRIED,
        measure=f"What single layers lose, added up. The most is lost at layer {most}; {int((p < 0.05).sum())} of "
        f"{len(p)} layers lose or gain more than chance allows (p < 0.05, corrected for all layers).",
        caveat="Layers that step in for each other lose little by themselves.",
        table=rows,
        figure=Figure(
            "lines",
            x="layer",
            y="lost (share of the size difference)",
            low="low",
            high="high",
            chance=0.0,
            caption="What is lost when the noun does not see its adjective in one layer. Bands over nouns.",
        ),
    )


def features(lab: Lab, words: Words, folder: Path, n_perm: int) -> Iterator[Finding]:
    """Which features of a sparse autoencoder differ between large and small, and do they tell held-out phrases?"""
    sae = attach_sae(folder, lab.model)
    site = site_of(sae)
    rows = []
    for template in TEMPLATES:
        acts = lab.model.capture(prompts_of(words.sized, words.nouns, template), site, batch_size=64)
        rows.append(_encode(sae, acts.last(site)))
    at = torch.stack(rows).view(len(TEMPLATES), len(words.sized), len(words.nouns), -1)
    alive = (at > 0).flatten(0, 2).any(0).nonzero().flatten()
    told = tell_apart(at[..., alive], n_perm, lab.seed)
    gap = size_direction(at)
    best = gap.abs().argsort(descending=True)[:TOP].tolist()
    n = len(words.small)
    table: list[Row] = [
        {"feature": str(i), "after": kind, "mean activation": float(part[..., i].mean())}
        for i in best
        for kind, part in (("small ones", at[:, :n]), ("large ones", at[:, n:]))
    ]
    yield Finding(
        claim="Features of the sparse autoencoder at the noun tell large from small, for held-out words.",
        estimate=told.estimate,
        control=Control("adjectives dealt to the classes at random", told.null),
        expects="greater",
        part=CARRIED,
        measure=f"As in part (a), by the activations of the features at {site}.",
        caveat="A feature that differs need not be about size: see what else it fires on (interp features show).",
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
