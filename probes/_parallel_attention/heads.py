"""Which layers need what lies far back, and which heads look there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import Control, Figure, Finding, Lab, Row
from interp.analysis import continuation
from interp.edits import windowed
from interp.stats import estimate_gap, estimate_mean

from . import HEADS, NATS

NEAR = 8  # tokens that a layer sees when it is cut
PARTS = 4  # of the layers
SHARE = 0.1  # of the heads
FAR = 5.0  # tokens
BATCH = 4  # documents whose patterns are in memory together


def cut_layers(lab: Lab, rows: Sequence[list[int]], start: int) -> Finding:
    """A quarter of the layers sees eight tokens (and the first), the others everything."""
    model = lab.model
    metric = continuation([list(r) for r in rows], [start] * len(rows), per="token")
    clean = -model.measure([list(r) for r in rows], metric, batch_size=4).cpu()
    bounds = np.linspace(0, model.n_layers, PARTS + 1).round().astype(int).tolist()
    table: list[Row] = []
    lost: list[Tensor] = []
    for i, (low, high) in enumerate(pairwise(bounds)):
        if high > low:
            with model.edit({f"blocks.{n}.attn.hook_pattern": windowed(NEAR) for n in range(low, high)}):
                lost.append(-model.measure([list(r) for r in rows], metric, batch_size=4).cpu() - clean)
            at = estimate_mean(lost[-1].numpy(), unit=NATS, over="document", seed=lab.seed)
            table.append({"layers cut": f"{low} to {high - 1}", "lost (nats per token)": at.mean})
            table[-1] |= {"low": at.low, "high": at.high}
        lab.progress("cutting layers", i + 1, PARTS)
    middle = torch.stack(lost[1:-1]).mean(0) if len(lost) > 2 else lost[0]
    pair = estimate_gap(middle.numpy(), lost[-1].numpy(), unit=NATS, over="document", seed=lab.seed)
    return Finding(
        claim="What lies far back is needed by the middle layers more than by the last ones.",
        estimate=pair.estimate,
        control=Control("the last quarter of the layers", pair.control),
        paired=pair.gap,
        expects="greater",
        part=HEADS,
        measure=f"Surprise that is added when a quarter of the layers sees {NEAR} tokens and the first one, mean of "
        "the two middle quarters.",
        caveat="A layer that is cut may be replaced by another that is not.",
        table=table,
        figure=Figure(
            "effect_bars",
            x="lost (nats per token)",
            y="layers cut",
            low="low",
            high="high",
            caption="What is lost when some layers see near tokens only. Intervals over documents.",
        ),
    )


def distances(lab: Lab, rows: Sequence[list[int]]) -> tuple[Float[Tensor, "sequence layer head"], Tensor]:
    """Mean distance that each head looks back, the first token left out; and the attention that the first one gets."""
    length = len(rows[0])
    back = (torch.arange(length)[:, None] - torch.arange(length)[None]).clamp(min=0).float()
    later = slice(length // 2, length)
    found: list[tuple[Tensor, Tensor]] = []
    for i in range(0, len(rows), BATCH):
        acts = lab.model.capture([list(r) for r in rows[i : i + BATCH]], "blocks.*.attn.hook_pattern")
        far, sink = [], []
        for pattern in acts.tensors.values():
            seen = pattern.float().cpu()[:, :, later]
            sink.append(seen[..., 0].mean(-1))
            rest = seen[..., 1:]
            far.append((rest * back[later, 1:]).sum((-1, -2)) / rest.sum((-1, -2)).clamp_min(1e-9))
        found.append((torch.stack(far, 1), torch.stack(sink, 1)))
        lab.progress("measuring how far heads look", min(i + BATCH, len(rows)), len(rows))
    return torch.cat([far for far, _ in found]), torch.cat([sink for _, sink in found])


def look_far(lab: Lab, rows: Sequence[list[int]]) -> Finding:
    """The heads that look farthest in half of the documents, against those that look nearest, in the other half."""
    far, sink = distances(lab, rows)
    mean = far[::2].mean(0).flatten()
    n = max(1, round(SHARE * len(mean)))
    order = mean.argsort(descending=True)
    judged = far[1::2].flatten(1)
    ends = (judged[:, some].mean(1).numpy() for some in (order[:n], order[-n:]))
    pair = estimate_gap(*ends, unit="tokens", over="document", seed=lab.seed)
    table: list[Row] = []
    for kind, values in (
        ("mean distance (tokens)", far.mean(0)),
        ("share on the first token × 100", 100 * sink.mean(0)),
    ):
        table += [
            {"what": kind, "layer": layer, "head": head, "value": value}
            for layer, line in enumerate(values.tolist())
            for head, value in enumerate(line)
        ]
    return Finding(
        claim=f"Some heads look far back and others next door: a difference of over {FAR:g} tokens.",
        estimate=pair.estimate,
        control=Control("the heads that look nearest", pair.control),
        paired=pair.gap,
        expects="greater",
        margin=FAR,
        part=HEADS,
        measure=f"Mean distance that the tenth of the heads looks back which looked farthest in other documents, from "
        f"tokens {len(rows[0]) // 2} to {len(rows[0])}, the first token left out.",
        caveat="On average a head gives the first token "
        f"{float(sink.mean()):.0%} of its attention: it keeps there what it does not need.",
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
