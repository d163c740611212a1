"""Which weights and activations moved, in how many directions, and which layers carry the new behaviour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from interp import Control, Figure, Finding, Lab, Model, Row, copy_model, weights_from
from interp import TuningExample as Example
from interp.analysis import (
    effective_rank,
    energies,
    layer_of_parameter,
    relative_change,
    score_completions,
    share_in_top,
    weight_changes,
)
from interp.stats import estimate_gap, estimate_mean, known

from . import CARRIES, CONTROLS, MOVED, NATS
from .behaviour import ONE_SEED
from .questions import Exam, Question

LITTLE, LOW, FARTHER, CARRIED = 0.05, 0.1, 0.1, 0.5  # share of the length; of it; of the spread; nats
TOP = 8  # directions
SINK = 10  # times the median length: an attention sink
OUTSIDE = "embeddings, last norm"
RELATIVE, HELD = "relative change (share of length)", f"in the {TOP} largest directions (share of squared length)"


def weights_moved(lab: Lab, tuned: Model, shuffled: Model | None) -> Finding:
    """How far, layer by layer and part by part."""
    told = {"right answers": weight_changes(lab.model, tuned)}
    if shuffled is not None:
        told["answers of other questions"] = weight_changes(lab.model, shuffled)
    table: list[Row] = []
    for name, changes in told.items():
        for part in ("attention", "MLP"):
            for layer in range(lab.model.n_layers):
                some = [one for one in changes if one.layer == layer and one.part == part]
                each = (sum(one.moved**2 for one in some) / max(1, sum(one.size for one in some))) ** 0.5
                row: Row = {"layer": layer, "weights": f"{part}, {name}", RELATIVE: relative_change(some)}
                table.append(row | {"each weight by (millionths)": each * 1e6})
    ours = told["right answers"]
    by_layer = [relative_change(one for one in ours if one.layer == layer) for layer in range(lab.model.n_layers)]
    outside = relative_change(one for one in ours if one.layer is None)
    return Finding(
        claim="Fine-tuning leaves the weights nearly as they were: each layer's change is under 5 % of its length.",
        estimate=estimate_mean(by_layer, unit="share of length", over="layer", bounds=(0, np.inf), seed=lab.seed),
        control=Control("one in twenty", known(LITTLE, unit="share of length", why="set beforehand")),
        expects="less",
        part=MOVED,
        measure="Length of the change of a layer's weights over the weights' length before, taken as one long vector. "
        f"Embeddings and last norm: {outside:.2%}.",
        caveat="AdamW moves every weight by about as much, so that the relative change is large where weights are "
        "small; where weights moved is not yet where the behaviour is. " + ONE_SEED.split(":")[0] + ".",
        table=table,
        figure=Figure(
            "lines", x="layer", y=RELATIVE, group="weights",
            caption="How far each layer's weights moved, over their length.",
        ),
    )  # fmt: skip


def directions_moved(lab: Lab, tuned: Model) -> Finding:
    """Is the change of low rank, beside random numbers and the weights themselves?"""
    n = lab.model.n_layers
    layers = {round(i * (n - 1) / 4) for i in ((1, 3) if lab.quick else range(5))}
    old, new = (dict(some.hf.named_parameters()) for some in (lab.model, tuned))
    names = [name for name, p in old.items() if layer_of_parameter(name) in layers and p.ndim == 2 and min(p.shape) > 8]
    chance: dict[torch.Size, NDArray[np.float64]] = {}
    found: dict[str, dict[str, list[NDArray[np.float64]]]] = {}
    ours, null = [], []
    for i, name in enumerate(names):
        shape = old[name].shape
        if shape not in chance:
            chance[shape] = energies(torch.randn(shape, generator=torch.Generator().manual_seed(lab.seed)))
        kind = ".".join(name.removesuffix(".weight").split(".")[-2:])
        change = energies(new[name] - old[name])
        each = found.setdefault(kind, {"the change": [], "the weights before": [], "random numbers": []})
        for told, squares in zip(each.values(), (change, energies(old[name]), chance[shape]), strict=True):
            told.append(squares)
        ours.append(share_in_top(change, TOP))
        null.append(share_in_top(chance[shape], TOP))
        lab.progress("counting directions", i + 1, len(names))
    table: list[Row] = []
    for kind, each in found.items():
        for what, some in each.items():
            at = estimate_mean([share_in_top(s, TOP) for s in some], unit="share", over="layer", bounds=(0, 1))
            table.append({"matrix": kind, "of": what, HELD: at.mean, "low": at.low, "high": at.high})
            table[-1] |= {"effective rank (directions)": float(np.mean([effective_rank(s) for s in some]))}
    ranks = {what: np.mean([effective_rank(s) for each in found.values() for s in each[what]]) for what in
             ("the change", "the weights before", "random numbers")}  # fmt: skip
    unit = "share of squared length"
    return Finding(
        claim=f"The change has few directions: its {TOP} largest hold 10 points more of it than of random numbers.",
        estimate=estimate_mean(ours, unit=unit, over="weight tensor", bounds=(0, 1), seed=lab.seed),
        control=Control(
            "random numbers", estimate_mean(null, unit=unit, over="weight tensor", bounds=(0, 1), seed=lab.seed)
        ),
        expects="greater",
        margin=LOW,
        part=MOVED,
        measure=f"Share of a matrix's squared length in its {TOP} largest singular values, over {len(names)} matrices. "
        f"Effective rank, on average: {', '.join(f'{what} {rank:.0f}' for what, rank in ranks.items())}.",
        caveat="A batch of a few short examples gives a gradient of few directions; the optimiser's rounding to equal "
        "steps adds many small ones.",
        table=table,
        figure=Figure(
            "bars", x="matrix", y=HELD, group="of", low="low", high="high",
            caption=f"Layers {', '.join(map(str, sorted(layers)))}; intervals over layers.",
        ),
    )  # fmt: skip


def activations_moved(lab: Lab, exam: Exam, tuned: Model, rows: Sequence[list[int]]) -> Finding:
    """Layer by layer, at the token before the answer and in ordinary text."""
    sites = [lab.model.residual(layer + 1) for layer in range(lab.model.n_layers)]
    asked = [question.prompt for question in exam.held_out]
    lab.progress("reading activations", 0, 2)
    ends = [some.capture(asked, sites) for some in (lab.model, tuned)]
    at_answers = [_gaps(*(some.last(site) for some in ends)) for site in sites]
    lab.progress("reading activations", 1, 2)
    texts = [some.capture(rows, sites) for some in (lab.model, tuned)]
    owner = torch.arange(len(rows), device=lab.model.device)[:, None].expand_as(texts[0].mask)
    later = texts[0].mask.clone()
    later[:, 0] = False  # an attention sink
    in_text = []
    for site in sites:
        before, after = (some[site][later] for some in texts)
        lengths = before.norm(dim=-1)
        clean = lengths < SINK * lengths.median()
        far, near = _gaps(before[clean], after[clean])
        documents = owner[later][clean].cpu().numpy()
        here = sorted(set(documents.tolist()))
        in_text.append(tuple(np.array([v[documents == d].mean() for d in here]) for v in (far, near)))
    table: list[Row] = []
    unit = "change (share of spread)"
    for where, over, some in (("before the answer", "question", at_answers), ("ordinary text", "document", in_text)):
        for layer, (far, near) in enumerate(some):
            at = estimate_mean(far, unit=unit, over=over, seed=lab.seed)
            table.append({"layer": layer, "token": where, unit: at.mean, "low": at.low, "high": at.high})
            table[-1] |= {"cosine": float(near.mean())}
    ours, theirs = (np.stack([far for far, _ in some]).mean(0) for some in (at_answers, in_text))
    return Finding(
        claim="What moves is where answers are due: more than in ordinary text, by a tenth of the spread.",
        estimate=estimate_mean(ours, unit="share of spread", over="question", seed=lab.seed),
        control=Control("ordinary text", estimate_mean(theirs, unit="share of spread", over="document", seed=lab.seed)),
        expects="greater",
        margin=FARTHER,
        part=MOVED,
        measure="Length of the residual stream's change, mean of all layers, over how far such tokens lie from their "
        "mean before. At the last token of held-out prompts, and at tokens of held-out documents.",
        caveat="Prompts of one format lie closer together than tokens of any text: the spread is each kind's own. "
        "Attention sinks are left out.",
        table=table,
        figure=Figure(
            "lines", x="layer", y=unit, group="token", low="low", high="high",
            caption="How far the residual stream moved, layer by layer. Bands over questions and documents.",
        ),
    )  # fmt: skip


def _gaps(before: torch.Tensor, after: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each row: length of the change over the rows' spread, and the cosine of both about the mean before."""
    x, y = before.double(), after.double()
    mean = x.mean(0)
    spread = (x - mean).square().sum(-1).mean().sqrt().clamp_min(1e-12)
    cosine = torch.nn.functional.cosine_similarity(x - mean, y - mean, dim=-1)
    return ((y - x).norm(dim=-1) / spread).cpu().numpy(), cosine.cpu().numpy()


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
