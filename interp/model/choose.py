"""Where an edit acts: which tokens, heads, features and prompts of a site."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.editing import Edit, call_edit
from interp.model.hooks.given import check_edit, makes
from interp.model.hooks.where import Pos, Where, check_pos

Some = int | Iterable[int] | None  # None: all


@makes("only(ablate(), pos=-1)")
def only(edit: Edit, *, pos: Pos = None, heads: Some = None, features: Some = None, prompts: Some = None) -> Edit:
    """Let `edit` act on the chosen tokens, heads, features and prompts, and leave the rest as it was.

    `pos` counts per prompt without its padding (None for all, -1 is the last token, a slice, a list); at an attention
    pattern it chooses queries. `heads` are those of the site (keys and values may have fewer than queries), `features`
    places on the last axis, `prompts` numbers in the caller's list. Raises UserError for one that is not there.
    """
    check_edit("the edit given to only", edit)
    check_pos(pos)
    chosen_by = {"head": heads, "feature": features, "prompt": prompts}
    numbers = {axis: _numbers(f"{axis}s", some) for axis, some in chosen_by.items()}

    def partly(activation: Tensor, where: Where) -> Tensor:
        chosen = choose(activation, where, pos)
        for axis, some in numbers.items():
            if some is not None:
                chosen = chosen & _along(axis, some, activation, where)
        result = call_edit(edit, activation, where)
        if not isinstance(result, Tensor) or result.shape != activation.shape:
            return result  # refused, in its words, where edits are applied
        return result.where(chosen, activation)

    partly.__name__ = f"only({getattr(edit, '__name__', type(edit).__name__)})"
    return partly


def choose(activation: Tensor, where: Where, pos: Pos = None) -> Bool[Tensor, "*axes"]:
    """True at the chosen tokens (queries, at a pattern), as a mask that broadcasts against `activation`."""
    if where.axes[:1] != ("prompt",) or "pos" not in where.axes:
        raise UserError(f"this edit works per token, but {where.name} has axes {where.axes}; write a function for it")
    shape = [1] * activation.ndim
    shape[0], shape[where.axes.index("pos")] = where.mask.shape
    return where.positions(pos).view(shape)


def _along(axis: str, numbers: list[int], activation: Tensor, where: Where) -> Bool[Tensor, "*axes"]:
    """True at these places of an axis, as a mask that broadcasts. Raises UserError for an axis the site has not."""
    if axis not in where.axes:
        raise UserError(f"{where.name} has no {axis}s: its axes are {', '.join(where.axes)}; choose another site")
    place = activation.ndim - 1 if axis == "feature" else where.axes.index(axis)
    n = where.total if axis == "prompt" else activation.shape[place]
    if wrong := [i for i in numbers if not -n <= i < n]:
        raise UserError(f"{axis} {wrong[0]} at {where.name}; expected some of 0 to {n - 1}")
    wanted = torch.zeros(n, dtype=torch.bool, device=activation.device)
    wanted[numbers] = True
    if axis == "prompt":
        wanted = wanted[where.prompts.to(activation.device)]
    shape = [1] * activation.ndim
    shape[place] = len(wanted)
    return wanted.view(shape)


def _numbers(word: str, some: Some) -> list[int] | None:
    """Places as a list, from a number, several, a tensor or an array; None for all."""
    if some is None:
        return None
    plain = getattr(some, "tolist", lambda: some)()  # of torch or numpy
    several: Any = [plain] if hasattr(plain, "__index__") else plain
    try:
        several = list(several)
        numbers = [index(i) for i in several]
    except TypeError as error:
        raise UserError(f"{word}={some!r}; expected a number, or several") from error
    if not numbers or any(isinstance(i, bool) for i in several):
        raise UserError(f"{word}={some!r}; expected a number, or several, and no mask of True and False")
    return numbers
