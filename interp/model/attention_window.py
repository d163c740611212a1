"""Sliding-window attention: how far back attention may look, in the whole model or, as an edit, in some layers alone.

Positions stay what they are; only keys further back are hidden. The first token can be left in sight: many models keep
what they do not need on it, and break without it (attention sinks, Xiao et al. 2309.17453).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.editing import Edit, Where
from interp.model.hooks.forward import forward
from interp.model.hooks.given import makes
from interp.model.hooks.tokens import Tokens
from interp.model.model import Model


def in_sight(length: int, window: int, *, first: bool) -> Bool[Tensor, "query key"]:
    """Which keys each query sees: the last `window` tokens, itself included, and with `first` the first one."""
    if window < 1:
        raise UserError(f"window={window}; expected 1 (only the token itself) or more")
    back = torch.arange(length)[:, None] - torch.arange(length)[None]
    seen = (back >= 0) & (back < window)
    if first:
        seen[:, 0] = True
    return seen


@torch.no_grad()
def windowed_losses(
    model: Model,
    rows: Sequence[Sequence[int]],
    window: int | None,
    *,
    first: bool = True,
    start: int = 1,
    batch_size: int = 8,
) -> Float[Tensor, "sequence pos"]:
    """Surprise of the tokens from `start` on, in nats, of sequences of one length, all layers seeing `window` tokens.

    None is everything. Edits apply. Raises UserError for sequences of several lengths.
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise UserError(f"sequences of {len(lengths)} lengths came; expected one length")
    (length,) = lengths
    sees = in_sight(length, length if window is None else window, first=first).to(model.device)
    out = []
    for at in range(0, len(rows), batch_size):
        ids = torch.tensor([list(row) for row in rows[at : at + batch_size]], device=model.device)
        index = torch.arange(at, at + len(ids))
        batch = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), index, len(rows), sees=sees)
        # a vocabulary is wide: only what is looked at
        logits = forward(model.tree, batch, keep=length - start + 1).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, start:].flatten(), reduction="none")
        out.append(loss.view(len(ids), -1).cpu())
    return torch.cat(out)


@makes("windowed(8)")
def windowed(window: int, *, first: bool = True) -> Edit:
    """An edit of attention patterns: what lies further back is hidden, and what is left of a row sums to 1 again."""

    def cut(activation: Tensor, where: Where) -> Tensor:
        if where.axes != ("prompt", "head", "pos", "pos"):
            raise UserError(f"windowed works on attention patterns, and {where.name} has axes {where.axes}")
        n, k = activation.shape[-2:]
        seen = in_sight(k, window, first=first)[k - n :].to(activation.device)
        left = activation * seen
        total = left.sum(-1, keepdim=True)
        return torch.where(total > 0, left / total.clamp_min(torch.finfo(left.dtype).tiny), left)

    return cut
