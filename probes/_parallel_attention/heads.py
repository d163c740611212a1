"""Which layers need what lies far back, and which heads look there."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import Claim, Figure, Finding, Lab, NotAsked, Row, halves, measured, zero
from interp.analysis import windowed_losses
from interp.edits import windowed
from interp.stats import estimate_mean

from . import HEADS, NATS, Rows

NEAR = 8  # tokens that a layer sees when it is cut
PARTS = 4  # of the layers
SHARE = 0.1  # of the heads
FAR = 5.0  # tokens
BATCH = 4  # documents whose patterns are in memory together

MIDDLE_LAYERS = Claim(
    "What lies far back is needed by the middle layers more than by the last ones.",
    expects="greater",
    unit=NATS,
    part=HEADS,
    measure=f"Surprise that is added when a quarter of the layers sees {NEAR} tokens and the first one, mean of the "
    "middle quarters less the last one, document by document.",
    caveat="A layer that is cut may be replaced by another that is not.",
)
FAR_AND_NEAR = Claim(
    f"Some heads look far back and others next door: a difference of over {FAR:g} tokens.",
    expects="greater",
    margin=FAR,
    unit="tokens",
    part=HEADS,
    measure="Mean distance that the tenth of the heads looks back which looked farthest in half of the documents, less "
    "that of the tenth which looked nearest, in the other half; from the middle of a text on, without its first token.",
)
CLAIMS = [MIDDLE_LAYERS, FAR_AND_NEAR]


def cut_layers(lab: Lab, rows: Rows, start: int, whole: Float[Tensor, "sequence pos"]) -> Finding | NotAsked:
    """A quarter of the layers sees eight tokens (and the first), the others everything.

    `whole`: the losses from `start` on where all of them see everything.
    """
    model = lab.model
    bounds = np.linspace(0, model.n_layers, PARTS + 1).round().astype(int).tolist()
    quarters = [(low, high) for low, high in pairwise(bounds) if high > low]
    if len(quarters) < 3:
        return MIDDLE_LAYERS.not_asked(f"because the model has {model.n_layers} layers: none is in the middle")
    lost: dict[str, Tensor] = {}
    quarters = quarters[1:] if lab.quick else quarters  # of the first one nothing is claimed
    for i, (low, high) in enumerate(quarters):
        with model.edit({f"blocks.{n}.attn.hook_pattern": windowed(NEAR) for n in range(low, high)}):
            lost[f"{low} to {high - 1}"] = windowed_losses(model, rows, None, start=start).mean(1) - whole.mean(1)
        lab.progress("cutting layers", i + 1, len(quarters))
    by_quarter = measured(
        lost, by=("layers cut",), value="lost (nats per token)", unit=NATS, over="document", seed=lab.seed
    )
    *before, last = list(lost.values())[0 if lab.quick else 1 :]
    return MIDDLE_LAYERS.answer(
        estimate_mean((torch.stack(before).mean(0) - last).numpy(), unit=NATS, over="document", seed=lab.seed),
        zero(NATS, "as much as by the last quarter of the layers"),
        table=by_quarter.rows(),
        figure=by_quarter.bars(
            y="layers cut", caption="What is lost when some layers see near tokens only. Intervals over documents."
        ),
    )


def distances(lab: Lab, rows: Rows) -> tuple[Float[Tensor, "sequence layer head"], Tensor]:
    """Mean distance that each head looks back, the first token left out; and the attention that the first one gets."""
    length = len(rows[0])
    back = (torch.arange(length)[:, None] - torch.arange(length)[None]).clamp(min=0).float()
    later = slice(length // 2, length)
    batches: list[tuple[Tensor, Tensor]] = []
    for i in range(0, len(rows), BATCH):
        acts = lab.model.capture(rows[i : i + BATCH], "blocks.*.attn.hook_pattern")
        far, sink = [], []
        for pattern in acts.tensors.values():
            seen = pattern.float().cpu()[:, :, later]
            sink.append(seen[..., 0].mean(-1))
            rest = seen[..., 1:]
            far.append((rest * back[later, 1:]).sum((-1, -2)) / rest.sum((-1, -2)).clamp_min(1e-9))
        batches.append((torch.stack(far, 1), torch.stack(sink, 1)))
        lab.progress("measuring how far heads look", min(i + BATCH, len(rows)), len(rows))
    return torch.cat([far for far, _ in batches]), torch.cat([sink for _, sink in batches])


def look_far(lab: Lab, rows: Rows) -> Finding:
    """The heads that look farthest in half of the documents, against those that look nearest, in the other half."""
    far, sink = distances(lab, rows)
    choosing, judging = halves(far)
    order = choosing.mean(0).flatten().argsort(descending=True)
    n = max(1, round(SHARE * len(order)))
    farthest, nearest = (judging.flatten(1)[:, heads].mean(1).numpy() for heads in (order[:n], order[-n:]))
    table: list[Row] = [
        {"what": what, "layer": layer, "head": head, "value": value}
        for what, values in (
            ("mean distance (tokens)", far.mean(0)),
            ("share on the first token × 100", 100 * sink.mean(0)),
        )
        for layer, line in enumerate(values.tolist())
        for head, value in enumerate(line)
    ]
    return FAR_AND_NEAR.answer(
        estimate_mean(farthest - nearest, unit="tokens", over="document", seed=lab.seed),
        zero("tokens", "as far as the heads that look nearest"),
        measure=f"Those look {farthest.mean():.3g} tokens back, these {nearest.mean():.3g}.",
        caveat=f"On average a head gives the first token {float(sink.mean()):.0%} of its attention: it keeps there "
        "what it does not need.",
        table=table,
        figure=Figure(
            "head_grid",
            x="head",
            y="layer",
            z="value",
            facet="what",
            caption="How far each head looks back on average, and how much of its attention the first token gets.",
        ),
    )
