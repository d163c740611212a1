"""The linear path from a module's output to a difference of logits, with what is not linear on it held as it is.

Behind a module a factor or a norm may stand before the residual stream; the final norm and the unembedding follow, and
a cap or a scale of the logits. Each is found by trying what the model has, not by a table of architectures.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.analysis.metrics import Ids, check_differ, token_table
from interp.errors import UserError
from interp.model.final_norm import read_norm
from interp.model.hooks.bridge import relative_gap
from interp.model.hooks.plain import output_of, plain_module
from interp.model.hooks.tolerance import of_values
from interp.model.hooks.wide import widen, widest
from interp.model.model import Model

_NEIGHBOURS = 3  # how many tokens up and down the local slope of a cap is taken over
_BEHIND = {"attn": ("ln1_post", "ln1"), "mlp": ("ln2_post", "ln2")}  # components that may be a norm behind a module


@torch.no_grad()
def behind(
    model: Model, layer: int, what: str, made: Tensor, written: Tensor, direction: Tensor
) -> tuple[Float[Tensor, "prompt d_model"], Float[Tensor, " prompt"]]:
    """The direction to read a module's output along, and a constant, where `made` is `written` to the residual stream.

    It is written as it is, times one number (Granite), or through a norm of the block, which is found by trying.
    """
    limit = of_values(model.hf.dtype)
    none = torch.zeros(len(made), dtype=widest(made.device), device=made.device)
    if relative_gap(made, written) < limit:
        return direction, none
    factor = float((widen(made) * written).sum() / widen(made).square().sum())
    if relative_gap(factor * made, written) < limit:
        return factor * direction, none
    for name in _BEHIND[what]:
        norm = plain_module(model.tree, f"blocks.{layer}.{name}")
        if norm is not None and relative_gap(output_of(norm, made), written) < limit:
            return _through(norm, made, direction)
    return direction, none  # the sum of the parts will tell


@torch.no_grad()
def _through(
    norm: torch.nn.Module, x: Float[Tensor, "prompt d_model"], direction: Float[Tensor, "prompt d_model"]
) -> tuple[Float[Tensor, "prompt d_model"], Float[Tensor, " prompt"]]:
    """The direction in front of a norm whose scale is held as it is at `x`, and what the norm's bias adds."""
    weight, shift, centres = read_norm(norm, x[0])
    made = widen(output_of(norm, x)) - shift
    x = widen(x)
    x = x - x.mean(-1, keepdim=True) if centres else x
    scaled = x * weight
    scale = scaled.square().sum(-1, keepdim=True) / (scaled * made).sum(-1, keepdim=True)
    before = widen(direction) * weight / scale
    if centres:
        before = before - before.mean(-1, keepdim=True)
    return before, (widen(direction) * shift).sum(-1)


@torch.no_grad()
def read_out(
    model: Model,
    final: Float[Tensor, "prompt d_model"],
    logits: Float[Tensor, "prompt d_vocab"],
    right: Ids,
    wrong: Ids,
) -> tuple[Float[Tensor, "prompt d_model"], Float[Tensor, " prompt"]]:
    """(d logit difference / d residual with the norm's scale held, what it adds whatever the residual is).

    Raises UserError for a model without a final norm or an unembedding matrix, and for answers that are the same.
    """
    norm, head = plain_module(model.tree, "ln_final"), model.hf.get_output_embeddings()
    if norm is None:
        raise UserError(f"{type(model.hf).__name__} has no final norm; attribute with patching instead")
    if head is None:
        raise UserError(f"{type(model.hf).__name__} has no unembedding matrix; attribute with patching instead")
    tables = [token_table(word, ids).to(model.device) for word, ids in (("right", right), ("wrong", wrong))]
    check_differ(tables[0], tables[1])
    slopes = _secants(model, output_of(head, output_of(norm, final)), logits, tables[0], tables[1])
    weight: Tensor = head.weight.detach().to(model.device)  # type: ignore[union-attr,operator]
    bias: Any = getattr(head, "bias", None)
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().to(model.device)
    # the mean over pairs of slope * (right - wrong): each answer's row counts by the mean slope of its pairs
    shares = [(slopes.mean(2) / slopes.shape[1]), -(slopes.mean(1) / slopes.shape[2])]
    matrix = sum((widen(weight[ids]) * share[..., None]).sum(1) for ids, share in zip(tables, shares, strict=True))
    offset = sum((widen(bias[ids]) * share).sum(1) for ids, share in zip(tables, shares, strict=True))
    direction, constant = _through(norm, final, matrix)  # type: ignore[arg-type]
    return direction, constant + offset


def _secants(
    model: Model,
    before: Float[Tensor, "prompt d_vocab"],
    logits: Float[Tensor, "prompt d_vocab"],
    right: Int[Tensor, "prompt r"],
    wrong: Int[Tensor, "prompt w"],
) -> Float[Tensor, "prompt r w"]:
    """Of every pair of a right and a wrong answer, the logits' difference over that of the unembedding's output.

    1 where nothing stands between the two. Raises UserError where the logits are not a rising function of it.
    """
    limit = of_values(model.hf.dtype)
    x, y = widen(before), widen(logits)
    pairs = torch.ones(len(x), right.shape[1], wrong.shape[1], dtype=widest(x.device), device=x.device)
    if relative_gap(x, y) < limit:
        return pairs
    order = x.argsort(-1)
    x_sorted, y_sorted = x.gather(1, order), y.gather(1, order)
    if bool((y_sorted.diff(dim=-1) < -limit * y.abs().max()).any()):
        why = "an edit is active; attribute outside model.edit" if model.is_edited else "use patch_sweep"
        raise UserError(
            f"the logits of this {type(model.hf).__name__} are no function of what its unembedding gives for its last "
            f"block's output: {why}"
        )
    rise = x.gather(1, right)[:, :, None] - x.gather(1, wrong)[:, None, :]
    gain = y.gather(1, right)[:, :, None] - y.gather(1, wrong)[:, None, :]
    near = rise.abs() < 1e-3 * (x_sorted[:, -1] - x_sorted[:, 0])[:, None, None]
    # two answers as likely as each other: the secant of their neighbours in the vocabulary, which rounding spares
    place = torch.searchsorted(x_sorted, x.gather(1, right).contiguous())
    low, high = (place - _NEIGHBOURS).clamp_min(0), (place + _NEIGHBOURS).clamp_max(x.shape[1] - 1)
    local = (y_sorted.gather(1, high) - y_sorted.gather(1, low)) / (x_sorted.gather(1, high) - x_sorted.gather(1, low))
    return torch.where(near, local[:, :, None].expand_as(pairs), gain / torch.where(near, 1.0, rise))
