"""Reading and editing activations, strictly: a hook that did not fire is an error, and an edit leaves a receipt.

An edit is any function `(activation, where) -> activation`. It gets one batch at a time, padding included; `where` says
which prompts these are and where the real tokens lie. It must return the same shape and dtype, with finite numbers;
None leaves the activation as it is. It may call the model itself: there, no edit is active.

While a model generates, an edit sees the prompt once and then each new token by itself; all of them again only where a
longer text gives every token another position (LongRoPE).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.host import known, made_of, upload
from interp.model.hooks.receipts import Receipt
from interp.model.hooks.where import Where, real_entries

Edit = Callable[[Tensor, Where], "Tensor | None"]  # None leaves the activation as it is
Change = Callable[[Tensor, Where], Tensor]  # an edit that always returns one


class Doubts:
    """Whether edits gave NaN where finite numbers came in: asked of a GPU once a forward, and not at every site."""

    def __init__(self) -> None:
        self._open: list[tuple[str, Tensor]] = []

    def add(self, edit: str, is_broken: Bool[Tensor, ""]) -> None:
        """To be asked later."""
        self._open.append((edit, is_broken))

    def settle(self) -> None:
        """Raise UserError for the first edit that did."""
        broken, self._open = self._open, []
        if broken:
            card = broken[0][1].device  # blocks may lie on several
            flags = torch.stack([flag.to(card) for _, flag in broken]).tolist()
            for (edit, _), is_broken in zip(broken, flags, strict=True):
                if is_broken:
                    raise _not_finite(edit)


def _not_finite(edit: str) -> UserError:
    return UserError(f"{edit} returned NaN or infinite numbers where finite ones came in")


def apply_edit(
    edit: Edit, tensor: Tensor, where: Where, receipt: Receipt, *, is_full: bool = False, doubts: Doubts | None = None
) -> Tensor:
    """Call `edit`, check what it returns, and write the receipt. Raises UserError for a result that cannot be used.

    `is_full`: is every token of the batch known to be real? Then nothing is looked at twice. `doubts`: who asks whether
    the numbers are finite, later; without it they are looked at here.
    """
    before = tensor if torch.is_grad_enabled() else tensor.detach()
    result = call_edit(edit, before, where)
    name = _name_of(edit, where)
    _check_result(name, before, result)
    if doubts is None and is_full and where.axes.count("pos") < 2 and math.isfinite(float(result.detach().sum())):
        rows = (t.flatten(0, -2) if t.ndim > 1 else t.unsqueeze(-1) for t in (before, result))
        receipt.record(*rows, is_finite=True)
        if (
            before.requires_grad and not result.requires_grad
        ):  # a constant: what came in has no effect, and a slope of 0
            return result.where(torch.ones((), dtype=torch.bool, device=result.device), before)
        return result
    real = real_entries(where, before)
    masked = before < torch.finfo(before.dtype).min / 2  # scores above the diagonal: -inf, or soon to be
    broken = ~torch.isfinite(result) & ~(masked & (result == -torch.inf)) & torch.isfinite(before)
    if doubts is not None:
        doubts.add(name, (broken & real).any())
    elif bool((broken & real).any()):
        raise _not_finite(name)
    receipt.record(*(_vectors(t, where, real) for t in (before, result)))
    # Padding stays as it was: NaN there would reach the real tokens as 0 * NaN, an edited pattern would attend to it.
    return result.where(real & ~broken, before)


def call_edit(edit: Edit, activation: Tensor, where: Where) -> Tensor:
    """What an edit makes of a copy of the activation; None leaves it as it was.

    A copy, because an edit may work in place, and the model may use this tensor elsewhere too. Raises UserError for an
    edit that changes the copy and returns None: it would be without effect.
    """
    offered = activation.clone()
    result: Tensor | None = edit(offered, where)
    if result is not None:
        return result
    if not torch.equal(offered.nan_to_num(), activation.nan_to_num()):
        raise UserError(f"{_name_of(edit, where)} changed the activation in place and returned None; return it")
    return activation


def _name_of(edit: Edit, where: Where) -> str:
    return f"the edit {getattr(edit, '__name__', type(edit).__name__)!r} at {where.name}"


def _check_result(name: str, before: Tensor, result: object) -> None:
    if not isinstance(result, Tensor):
        hint = "; call it first, if it makes an edit" if callable(result) else ""
        raise UserError(
            f"{name} returned {type(result).__name__}; expected a tensor of shape {tuple(before.shape)}{hint}"
        )
    if result.shape != before.shape:
        raise UserError(f"{name} returned shape {tuple(result.shape)}; expected {tuple(before.shape)}")
    if result.device != before.device:
        raise UserError(f"{name} returned a tensor on {result.device}; expected {before.device}")
    if result.dtype != before.dtype:
        raise UserError(f"{name} returned {result.dtype}; expected {before.dtype}; convert with .to(activation.dtype)")


def edit_in_turns(
    edit: Edit, tensor: Tensor, where: Where, receipt: Receipt, turns: tuple[int, ...], kept: list[Tensor] | None = None
) -> Tensor:
    """Apply an edit as if the columns of each turn had come in a forward of their own, on top of those before it.

    `kept`: what the edit made of the first turns in earlier forwards. They are put back as they were, and the results
    of the others are added.
    """
    query, *key = (axis for axis, kind in enumerate(where.axes) if kind == "pos")
    earlier = torch.zeros_like(where.prompts) if where.before is None else where.before
    keys = where.mask if where.keys is None else where.keys
    past = keys.shape[1] - where.mask.shape[1]
    shown = tensor.shape[key[0]] - where.mask.shape[1] if key else 0  # a sliding cache lets go of the first keys
    out, start = tensor.clone(), 0
    for turn, width in enumerate(turns):
        stop = start + width
        before = earlier.to(where.mask.device) + where.mask[:, :start].sum(-1)
        part = replace(
            where,
            mask=where.mask[:, start:stop],
            before=None if where.before is None and turn == 0 else before,
            keys=keys[:, : past + stop],
        )
        piece, target = (whole.narrow(query, start, width) for whole in (tensor, out))
        if key:
            piece, target = (columns.narrow(key[0], 0, shown + stop) for columns in (piece, target))
        if kept is not None and turn < len(kept):
            target.copy_(kept[turn])
        else:
            result = apply_edit(edit, piece, part, receipt)
            target.copy_(result)
            if kept is not None:
                kept.append(result.detach())
        start = stop
    return out


def _vectors(tensor: Tensor, where: Where, real: Tensor) -> Tensor:
    """The activation vectors of real tokens as [row, feature]; heads count as rows of their own.

    Padding on a second pos axis (keys) and the masks' huge negative numbers count as zero.
    """
    masked = ~(tensor.abs() < torch.finfo(tensor.dtype).max / 2)  # NaN and infinity too
    tensor = tensor.masked_fill(~real | masked, 0.0)
    if "pos" in where.axes:
        tensor = tensor.movedim(where.axes.index("pos"), 1).flatten(0, 1)
        real_rows = made_of(where.mask, "real rows", lambda: upload(_real_rows(where.mask), tensor.device))
        tensor = tensor if len(real_rows) == len(tensor) else tensor[real_rows]
    return tensor.flatten(0, -2) if tensor.ndim > 1 else tensor.unsqueeze(-1)


def _real_rows(mask: Bool[Tensor, "prompt pos"]) -> Int[Tensor, " row"]:
    """The numbers of the real tokens, one prompt behind the other."""
    return known(mask).flatten().nonzero().flatten()
