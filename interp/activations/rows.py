"""Activations of a corpus at one site, one row a token, each traceable to its document and position.

Attention sinks are marked, not kept quiet: at the first position (and a few others) a model parks a vector a hundred
times longer than the rest (norm 24,569 against 169 in SmolLM2). One such row makes an SAE's explained variance near
1 whatever it learned, so training and metrics leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.model import Model

SINK_FACTOR = 10.0  # a sink's norm exceeds this many times the median norm at its site; position 0 always counts
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Rows:
    """Activations [row, d] of a corpus at `site`, sinks included; `document` and `position` say where each came from."""

    site: str
    values: Float[Tensor, "row d"]
    ids: Int[Tensor, " row"]
    document: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    is_sink: Bool[Tensor, " row"]

    @property
    def clean(self) -> Float[Tensor, "row d"]:
        """Rows that are no attention sinks."""
        return self.values[~self.is_sink]

    def __len__(self) -> int:
        return len(self.ids)


def capture_rows(
    model: Model,
    documents: Sequence[str] | Sequence[list[int]],
    site: str,
    *,
    max_tokens: int | None = None,
    context: int = 128,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Rows:
    """Run `documents` (each cut to `context` tokens) and keep the activations at `site`, up to `max_tokens` rows.

    Raises UserError for a site without one vector a token, or a corpus without tokens.
    """
    name = model.site_table.match(site)
    if len(name) != 1:
        raise UserError(f"site {site!r} matches {len(name)} sites; expected exactly one here")
    chosen: list[list[int]] = []
    total = 0
    for ids in model.encode(documents):
        ids = ids[: min(context, (max_tokens or total + context) - total)]
        if not ids:
            break
        chosen.append(ids)
        total += len(ids)
    pieces: list[Tensor] = []
    done = 0
    for start in range(0, len(chosen), batch_size):
        acts = model.capture(chosen[start : start + batch_size], name[0], batch_size=batch_size)
        if acts[name[0]].ndim != 3:
            raise UserError(f"site {site!r} has no single vector a token (shape {tuple(acts[name[0]].shape)})")
        pieces.append(acts.rows(name[0]).float().cpu())
        done += sum(map(len, chosen[start : start + batch_size]))
        if progress is not None:
            progress(done, total)
    values = torch.cat(pieces)
    position = torch.cat([torch.arange(len(ids)) for ids in chosen])
    return Rows(
        site=name[0],
        values=values,
        ids=torch.tensor([t for ids in chosen for t in ids]),
        document=torch.repeat_interleave(torch.arange(len(chosen)), torch.tensor([len(ids) for ids in chosen])),
        position=position,
        is_sink=find_sinks(values, position),
    )


def find_sinks(values: Float[Tensor, "row d"], position: Int[Tensor, " row"]) -> Bool[Tensor, " row"]:
    """Position 0, and every row whose norm exceeds ten times the median norm."""
    norms = values.norm(dim=-1)
    return (position == 0) | (norms > SINK_FACTOR * norms.median())
