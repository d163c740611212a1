"""How far weights and activations moved, and in how many directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from interp import Claim, Control, Figure, Finding, Lab, Model, NotAsked, Row, measured, set_beforehand, zero
from interp.analysis import (
    effective_rank,
    energies,
    layer_of_parameter,
    relative_change,
    share_in_top,
    weight_changes,
)
<<<<<<< HEAD
from interp.stats import estimate_gap, estimate_mean, known
=======
from interp.stats import estimate_mean
>>>>>>> h-p3

from . import DIFFERENCE, MOVED, ONE_SEED
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
    measure="Length of the change of a layer's weights over the weights' length before, taken as one long vector.",
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
    return NEARLY_AS_THEY_WERE.answer(
        estimate_mean(by_layer, unit=LENGTH, over="layer", bounds=(0, np.inf), seed=lab.seed),
        set_beforehand(LITTLE, LENGTH, "one in twenty"),
        measure=f"Embeddings and last norm: {outside:.2%}.",
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
        zero(SQUARED, RANDOM),
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
<<<<<<< HEAD


def blocks_of(model: Model, most: int) -> dict[str, list[str]]:
    """Parameters in at most `most` blocks of neighbouring layers, and those outside the layers."""
    n = model.n_layers
    edges = [round(i * n / min(most, n)) for i in range(min(most, n) + 1)]
    out: dict[str, list[str]] = {}
    names = [name for name, _ in model.hf.named_parameters()]
    for low, high in pairwise(edges):
        label = f"layer {low}" if high == low + 1 else f"layers {low} to {high - 1}"
        out[label] = [name for name in names if layer_of_parameter(name) in range(low, high)]
    return out | {OUTSIDE: [name for name in names if layer_of_parameter(name) is None]}


def scores_with(
    model: Model, source: Model, blocks: dict[str, list[str]], examples: Sequence[Example], lab: Lab | None = None
) -> NDArray[np.float64]:
    """Log-probability of each completion with one block's weights from `source` at a time: [example, block]."""
    work = copy_model(model, f"{model.provenance.name} with weights swapped")
    out = []
    for i, names in enumerate(blocks.values()):
        with weights_from(work, source, names):
            out.append(score_completions(work, examples).summed.double().numpy())
        if lab is not None:
            lab.progress("swapping weights", i + 1, len(blocks))
    return np.stack(out, 1)


def layers_that_carry(lab: Lab, questions: Sequence[Question], tuned: Model) -> Iterator[Finding]:
    """Part (d), and that swapping is exact."""
    examples = [question.example for question in questions]
    blocks = blocks_of(lab.model, 3 if lab.quick else 6)
    n = len(blocks)
    before, after = (score_completions(some, examples).summed.double().numpy() for some in (lab.model, tuned))
    back = scores_with(tuned, lab.model, blocks | _piled(blocks), examples, lab)
    lost, gained = after[:, None] - back[:, :n], scores_with(lab.model, tuned, blocks, examples, lab) - before[:, None]
    yield from _block_by_block(lab, list(blocks), lost, gained, after - before)
    if lab.model.n_layers > 1:
        yield _many_blocks(lab, list(blocks), after[:, None] - back[:, n:], after - before)
    gaps = np.concatenate([back[:, n] - after, back[:, 2 * n - 1] - before])
    yield Finding(
        claim="Swapping is exact: no weights put back change nothing, all of them give the model as it was.",
        estimate=estimate_mean(np.abs(gaps), unit=NATS, over="score", exact=True, seed=lab.seed),
        control=Control("no difference", known(0.0, unit=NATS, why="no difference")),
        expects="equal",
        margin=1e-9,
        part=CONTROLS,
        measure="Differences between log-probabilities, question by question, in both cases.",
    )


def _piled(blocks: dict[str, list[str]]) -> dict[str, list[str]]:
    """None, then more and more: all outside the layers and the first layers. The last but one is all; then from above.

    `n` blocks give n entries from below (none, …, all) and n - 2 from above.
    """
    outside, layers = blocks[OUTSIDE], [names for label, names in blocks.items() if label != OUTSIDE]
    parts = [[], *(layers[:i] for i in range(1, len(layers) + 1))]
    below = [sum(some, [*outside]) if some else [] for some in parts]
    above = [sum(layers[i:], [*outside]) for i in range(len(layers) - 1, 0, -1)]
    return {f"below {i}": names for i, names in enumerate(below)} | {f"above {i}": n for i, n in enumerate(above, 1)}


def _block_by_block(
    lab: Lab, names: list[str], lost: NDArray[np.float64], gained: NDArray[np.float64], gain: NDArray[np.float64]
) -> Iterator[Finding]:
    """`lost` and `gained` [question, block]; `gain` [question] is that of all weights together."""
    effect = "log-probability lost or gained (nats)"
    table: list[Row] = []
    for swap, some in (("old weights into the fine-tuned", lost), ("new weights into the model before", gained)):
        for label, values in zip(names, some.T, strict=True):
            at = estimate_mean(values, unit=NATS, over="question", seed=lab.seed)
            table.append({"weights": label, "swap": swap, effect: at.mean, "low": at.low, "high": at.high})
    best, alone = int(lost[::2].mean(0).argmax()), int(gained[::2].mean(0).argmax())
    rest = np.delete(lost[1::2], best, axis=1).mean(1)
    pair = estimate_gap(lost[1::2, best], rest, unit=NATS, over="question", seed=lab.seed)
    yield Finding(
        claim="One block of layers carries more of the new behaviour than the others do, by half a nat.",
        estimate=pair.estimate,
        control=Control("the other blocks, mean", pair.control),
        paired=pair.gap,
        expects="greater",
        margin=CARRIED,
        part=CARRIES,
        measure="What answer and mark lose in log-probability when one block's weights are put back to what they were. "
        f"One half of the held-out questions chose {names[best]}; measured on the other half.",
        caveat=f"{ONE_SEED} Blocks stand in for each other: what each loses alone need not add up to the whole.",
        table=table,
        figure=Figure(
            "effect_bars", x=effect, y="weights", group="swap", low="low", high="high",
            caption=f"All weights together: {gain.mean():.1f} nats. Intervals over held-out questions.",
        ),
    )  # fmt: skip
    pair = estimate_gap(gained[1::2, alone], gain[1::2] / 2, unit=NATS, over="question", seed=lab.seed)
    yield Finding(
        claim="No block does it alone: the best one's new weights give the old model less than half of the gain.",
        estimate=pair.estimate,
        control=Control("half of the gain", pair.control),
        paired=pair.gap,
        expects="less",
        part=CARRIES,
        measure=f"What {names[alone]}, chosen on the other half of the questions, gives by itself; all weights give "
        f"{gain[1::2].mean():.1f} nats.",
        caveat=ONE_SEED,
        table=table,
    )


def _many_blocks(lab: Lab, names: list[str], lost: NDArray[np.float64], gain: NDArray[np.float64]) -> Finding:
    """`lost` [question, what was put back], in the order of `_piled`."""
    layers = [name for name in names if name != OUTSIDE]
    n, column = len(layers), "log-probability lost (nats)"
    table: list[Row] = []
    for i, values in enumerate(lost.T):
        sides = ("from below",) if 0 < i < n else ("from above",) if i > n else ("from below", "from above")
        for side in sides:
            at = estimate_mean(values, unit=NATS, over="question", seed=lab.seed)
            share = (i if i <= n else i - n) / n
            table.append({"layers put back (share)": share, "put back": side, column: at.mean})
            table[-1] |= {"low": at.low, "high": at.high}
    half = n // 2
    pair = estimate_gap(lost[:, half], gain / 2, unit=NATS, over="question", seed=lab.seed)
    return Finding(
        claim="With the lower half of the layers as they were, more than half of the gain is left.",
        estimate=pair.estimate,
        control=Control("half of the gain", pair.control),
        paired=pair.gap,
        expects="less",
        part=CARRIES,
        measure=f"What answer and mark lose when embeddings, last norm and the lower {half} of {n} blocks get "
        f"their old weights back, of {gain.mean():.1f} nats gained.",
        caveat=ONE_SEED,
        table=table,
        figure=Figure(
            "lines", x="layers put back (share)", y=column, group="put back", low="low", high="high",
            caption="Old weights put back layer upon layer, from the first up or from the last down; embeddings and "
            "last norm always with them. Bands over questions.",
        ),
    )  # fmt: skip
=======
>>>>>>> h-p3
