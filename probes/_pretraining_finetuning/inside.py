"""How far weights and activations moved, and in how many directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from interp import Claim, Control, Figure, Finding, Lab, Model, NotAsked, Row, measured, same_as, set_beforehand
from interp.analysis import (
    effective_rank,
    energies,
    layer_of_parameter,
    relative_change,
    share_in_top,
    weight_changes,
)
from interp.stats import estimate_mean, known

from . import DIFFERENCE, MOVED, ONE_SEED
from .behaviour import ordinary_name
from .questions import Exam

LITTLE = 0.05  # share of the length
TOP = 8  # directions
SINK = 10  # times the median length: an attention sink
RELATIVE, HELD = "relative change (share of length)", f"in the {TOP} largest directions (share of squared length)"
LENGTH, SQUARED, SPREAD = "share of length", "share of squared length", "share of spread"
CHANGE, BEFORE, RANDOM = "the change", "the weights before", "random numbers"

NEARLY_AS_THEY_WERE = Claim(
    "Fine-tuning leaves the weights nearly as they were: each layer's change is under 5 % of its length.",
    expects="less",
    unit=LENGTH,
    part=MOVED,
    # the largest: a mean over layers would pass over one that moved far
    measure="Length of the change of a layer's weights over the weights' length before, taken as one long vector; of "
    "the layer where it is largest. Nothing was drawn at random: the number is exact.",
    caveat="AdamW moves every weight by about as much, so that the relative change is large where weights are small; "
    f"where weights moved is not yet where the behaviour is. {ONE_SEED.split(':')[0]}.",
)
FEW_DIRECTIONS = Claim(
    f"The change has few directions: its {TOP} largest hold 10 points more of it than of random numbers.",
    expects="greater",
    margin=0.1,
    unit=SQUARED,
    part=MOVED,
    measure=f"Share of a matrix's squared length in its {TOP} largest singular values, of the change less of random "
    "numbers of that shape.",
    caveat="A batch of a few short examples gives a gradient of few directions; the optimiser's rounding to equal "
    "steps adds many small ones.",
)
WHERE_DUE = Claim(
    "What moves is where answers are due: more than in ordinary text, by a tenth of the spread.",
    expects="greater",
    margin=0.1,
    unit=SPREAD,
    part=MOVED,
    measure="Length of the residual stream's change, mean of all layers, over how far such tokens lie from their mean "
    "before. At the last token of held-out prompts, and at tokens of held-out documents.",
    caveat="Prompts of one format lie closer together than tokens of any text: the spread is each kind's own. "
    "Attention sinks are left out.",
)
CLAIMS = [NEARLY_AS_THEY_WERE, FEW_DIRECTIONS, WHERE_DUE]


def weights_moved(lab: Lab, tuned: Model, shuffled: Model | None) -> Finding:
    """How far, layer by layer and part by part."""
    right = weight_changes(lab.model, tuned)
    changes = {"right answers": right}
    if shuffled is not None:
        changes["answers of other questions"] = weight_changes(lab.model, shuffled)
    table: list[Row] = []
    for name, of in changes.items():
        for part in ("attention", "MLP"):
            for layer in range(lab.model.n_layers):
                here = [one for one in of if one.layer == layer and one.part == part]
                each = (sum(one.moved**2 for one in here) / max(1, sum(one.size for one in here))) ** 0.5
                row: Row = {"layer": layer, "weights": f"{part}, {name}", RELATIVE: relative_change(here)}
                table.append(row | {"each weight by (millionths)": each * 1e6})
    by_layer = [relative_change(one for one in right if one.layer == layer) for layer in range(lab.model.n_layers)]
    outside = relative_change(one for one in right if one.layer is None)
    most = int(np.argmax(by_layer))
    return NEARLY_AS_THEY_WERE.answer(
        known(by_layer[most], unit=LENGTH, why=f"layer {most}, the largest"),
        set_beforehand(LITTLE, LENGTH, "one in twenty"),
        measure=f"Mean of all layers: {np.mean(by_layer):.2%}. Embeddings and last norm: {outside:.2%}.",
        table=table,
        figure=Figure(
            "lines",
            x="layer",
            y=RELATIVE,
            group="weights",
            caption="How far each layer's weights moved, over their length.",
        ),
    )


def directions_moved(lab: Lab, tuned: Model) -> Finding | NotAsked:
    """Is the change of low rank, beside random numbers and the weights themselves?"""
    n = lab.model.n_layers
    layers = {round(i * (n - 1) / 4) for i in ((1, 3) if lab.quick else range(5))}
    old, new = dict(lab.model.hf.named_parameters()), dict(tuned.hf.named_parameters())
    names = [
        name for name, p in old.items() if layer_of_parameter(name) in layers and p.ndim == 2 and min(p.shape) > TOP
    ]
    if not names:
        return FEW_DIRECTIONS.not_asked(f"because the layers have no matrix of more than {TOP} directions")
    chance: dict[torch.Size, NDArray[np.float64]] = {}
    squares: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for i, name in enumerate(names):
        shape = old[name].shape
        if shape not in chance:
            chance[shape] = energies(torch.randn(shape, generator=torch.Generator().manual_seed(lab.seed)))
        kind = ".".join(name.removesuffix(".weight").split(".")[-2:])
        squares.setdefault((kind, CHANGE), []).append(energies(new[name] - old[name]))
        squares.setdefault((kind, BEFORE), []).append(energies(old[name]))
        squares.setdefault((kind, RANDOM), []).append(chance[shape])
        lab.progress("counting directions", i + 1, len(names))
    held = measured(
        {key: [share_in_top(one, TOP) for one in of] for key, of in squares.items()},
        by=("matrix", "of"),
        value=HELD,
        unit=SQUARED,
        over="layer",
        bounds=(0, 1),
    )
    ranks = {key: [effective_rank(one) for one in of] for key, of in squares.items()}
    table: list[Row] = [
        row | {"effective rank (directions)": float(np.mean(ranks[str(row["matrix"]), str(row["of"])]))}
        for row in held.rows()
    ]
    each = {what: [one for (_, of), all_of in squares.items() if of == what for one in all_of] for what in
            (CHANGE, BEFORE, RANDOM)}  # fmt: skip
    top = {what: np.array([share_in_top(one, TOP) for one in of]) for what, of in each.items()}
    told = ", ".join(f"{what} {np.mean([effective_rank(one) for one in of]):.0f}" for what, of in each.items())
    return FEW_DIRECTIONS.answer(
        estimate_mean(top[CHANGE] - top[RANDOM], unit=SQUARED, over="weight tensor", bounds=DIFFERENCE, seed=lab.seed),
        same_as(SQUARED, RANDOM),
        measure=f"{top[CHANGE].mean():.0%} against {top[RANDOM].mean():.0%}, over {len(names)} matrices. Effective "
        f"rank, on average: {told}.",
        table=table,
        figure=held.bars(y="matrix", caption=f"Layers {', '.join(map(str, sorted(layers)))}; intervals over layers."),
    )


def activations_moved(lab: Lab, exam: Exam, tuned: Model, rows: Sequence[list[int]]) -> Finding:
    """Layer by layer, at the token before the answer and in ordinary text."""
    sites = [lab.model.residual(layer + 1) for layer in range(lab.model.n_layers)]
    asked = [question.prompt for question in exam.held_out]
    lab.progress("reading activations", 0, 2)
    ends = [model.capture(asked, sites) for model in (lab.model, tuned)]
    at_answers = [_gaps(*(one.last(site) for one in ends)) for site in sites]
    lab.progress("reading activations", 1, 2)
    texts = [model.capture(rows, sites) for model in (lab.model, tuned)]
    owner = torch.arange(len(rows), device=lab.model.device)[:, None].expand_as(texts[0].mask)
    later = texts[0].mask.clone()
    later[:, 0] = False  # an attention sink
    in_text = []
    for site in sites:
        before, after = (one[site][later] for one in texts)
        lengths = before.norm(dim=-1)
        clean = lengths < SINK * lengths.median()
        far, near = _gaps(before[clean], after[clean])
        documents = owner[later][clean].cpu().numpy()
        here = sorted(set(documents.tolist()))
        in_text.append(tuple(np.array([v[documents == d].mean() for d in here]) for v in (far, near)))
    moved = {
        where: measured(
            {(layer, where): far for layer, (far, _) in enumerate(gaps)},
            by=("layer", "token"),
            value="change (share of spread)",
            unit=SPREAD,
            over=over,
            seed=lab.seed,
        )
        for where, over, gaps in (("before the answer", "question", at_answers), ("ordinary text", "document", in_text))
    }
    table: list[Row] = [
        row | {"cosine": float(near.mean())}
        for one, gaps in zip(moved.values(), (at_answers, in_text), strict=True)
        for row, (_, near) in zip(one.rows(), gaps, strict=True)
    ]
    by_question, by_document = (np.stack([far for far, _ in gaps]).mean(0) for gaps in (at_answers, in_text))
    return WHERE_DUE.answer(
        estimate_mean(by_question, unit=SPREAD, over="question", seed=lab.seed),
        Control("ordinary text", estimate_mean(by_document, unit=SPREAD, over="document", seed=lab.seed)),
        measure=f"Text: {ordinary_name()}.",
        table=table,
        figure=moved["before the answer"].lines(
            x="layer",
            caption="How far the residual stream moved, layer by layer. Bands over questions and documents.",
        ),
    )


def _gaps(before: torch.Tensor, after: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each row: length of the change over the rows' spread, and the cosine of both about the mean before."""
    x, y = before.double(), after.double()
    mean = x.mean(0)
    spread = (x - mean).square().sum(-1).mean().sqrt().clamp_min(1e-12)
    cosine = torch.nn.functional.cosine_similarity(x - mean, y - mean, dim=-1)
    return ((y - x).norm(dim=-1) / spread).cpu().numpy(), cosine.cpu().numpy()
