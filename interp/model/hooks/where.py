"""Where an edit or a metric is called: which prompts, which tokens, what each axis is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.host import known, made_of, sent, upload
from interp.model.hooks.shown import Shown
from interp.model.hooks.sites import layer_of

Pos = int | slice | Sequence[int] | None  # tokens of a prompt: None for all


class _Layer(int):
    """A layer's number, which says so to whoever calls it: in TransformerLens `hook.layer()` is a method."""

    def __call__(self) -> NoReturn:
        raise UserError(f"where.layer is a number, {int(self)}; write it without the brackets: where.layer")


@dataclass(frozen=True, repr=False)
class Where(Shown):
    """Where and on what an edit is called.

    `prompts`: which of the caller's `total` prompts the rows are. `mask`: True at real tokens.
    `axes`: what each axis of the activation is ("prompt", "pos", "head", "feature").
    `before`: how many tokens of each prompt earlier forwards have read, while a model generates; None in the first.
    `keys`: at an attention pattern, which of the tokens that are looked at are real, where these are more than `mask`.
    """

    name: str
    prompts: Int[Tensor, " prompt"]
    total: int
    mask: Bool[Tensor, "prompt pos"]
    axes: tuple[str, ...]
    before: Int[Tensor, " prompt"] | None = None
    keys: Bool[Tensor, "prompt key"] | None = None

    def on(self, device: torch.device) -> Where:
        """The same beside an activation on another card."""
        if self.mask.device == device:
            return self
        mask, before, keys = (None if one is None else sent(one, device) for one in (self.mask, self.before, self.keys))
        assert mask is not None
        return replace(self, mask=mask, before=before, keys=keys)

    @property
    def layer(self) -> int | None:
        """The layer in the name, or None outside the blocks."""
        layer = layer_of(self.name)
        return None if layer is None else _Layer(layer)

    def numbers(self) -> Int[Tensor, "prompt pos"]:
        """The place of each token in its own prompt, counted from 0 whatever the padding; -1 on padding."""
        earlier = 0 if self.before is None else self.before.to(self.mask.device)[:, None]
        return torch.where(self.mask, self.mask.long().cumsum(-1) - 1 + earlier, -1)

    def key_numbers(self, width: int) -> Int[Tensor, "prompt key"]:
        """The same of the tokens that are looked at, of which a pattern shows the last `width`.

        A sliding window's cache lets go of the first ones: column 0 of a pattern need not be the first token.
        """
        mask = self.mask if self.keys is None else self.keys
        return replace(self, mask=mask, before=None, keys=None).numbers()[:, -width:]

    def positions(self, pos: Pos = None) -> Bool[Tensor, "prompt pos"]:
        """True at the real tokens chosen by `pos`, counted per prompt without its padding (-1 is the last token).

        None for all, an index, a slice, or several indices: [0, 3, -1].
        While a model generates, positions are counted from the prompt's first token, and -1 is the newest one; a
        position that was read earlier chooses nothing.
        """
        if pos is None:
            return self.mask
        check_pos(pos)
        if self.before is None and self.mask.device.type != "cpu":  # chosen where it is known what is padding
            mask = known(self.mask)
            return made_of(
                self.mask,
                f"positions {pos!r}",
                lambda: upload(replace(self, mask=mask, keys=None).positions(pos), self.mask.device),
            )
        if isinstance(pos, Sequence):
            several = [self.positions(index(one)) for one in pos]
            return torch.stack(several).any(0)
        pos = pos if isinstance(pos, slice) else index(pos)  # numpy's integers are indices too
        earlier = 0 if self.before is None else self.before.to(self.mask.device)[:, None]
        count = self.numbers()
        length = self.mask.sum(-1, keepdim=True) + earlier
        if isinstance(pos, int):
            wanted = torch.where(length + pos >= 0, length + pos, -1) if pos < 0 else torch.full_like(length, pos)
            if self.before is None and (bool((wanted < 0).any()) or bool((wanted >= length).any())):
                raise UserError(f"position {pos} is outside a prompt of {int(length.min())} tokens at {self.name}")
            return self.mask & (count == wanted)
        chosen = torch.zeros_like(self.mask)
        for row, n in enumerate(length.flatten().tolist()):
            inside = torch.zeros(n, dtype=torch.bool, device=self.mask.device)
            inside[list(range(n)[pos])] = True
            if self.before is None and not bool(inside.any()):
                raise UserError(f"{pos} chooses no token in a prompt of {n} tokens at {self.name}")
            chosen[row, self.mask[row]] = inside[n - int(self.mask[row].sum()) :]
        return chosen

    def key_positions(self, pos: Pos = None) -> Bool[Tensor, "prompt key"]:
        """The same of the tokens that are looked at, which are all read so far."""
        if self.keys is None or self.before is None:
            return self.positions(pos)
        return replace(self, mask=self.keys, before=torch.zeros_like(self.before), keys=None).positions(pos)


def check_pos(pos: object, name: str = "pos") -> None:
    """Raise UserError for what chooses no tokens."""
    several = isinstance(pos, Sequence) and not isinstance(pos, str | bytes)
    given: Any = pos
    whole = given if several else (given.start, given.stop, given.step) if isinstance(pos, slice) else (given,)
    try:
        numbers = [index(part) for part in whole if part is not None and not _is_truth(part)]  # type: ignore[arg-type]
    except TypeError:
        numbers = []
    wanted = len(whole) if several else sum(part is not None for part in whole)
    if len(numbers) < wanted or (several and not whole) or (isinstance(pos, slice) and pos.step == 0):
        raise UserError(f"{name}={pos!r}; expected None for all tokens, an index, a slice or a list of indices")


def _is_truth(part: object) -> bool:
    return isinstance(part, bool) or getattr(part, "dtype", None) in (torch.bool, "bool")


def real_entries(where: Where, tensor: Tensor) -> Tensor:
    """True where every pos axis is at a real token, as a mask that broadcasts against `tensor`.

    In an attention pattern, keys behind the query are none: no edit may let a token see what comes after it.
    """
    real = torch.ones([1] * tensor.ndim, dtype=torch.bool, device=tensor.device)
    mask = where.mask
    for axis, kind in enumerate(where.axes):
        if kind == "pos":
            shape = [1] * tensor.ndim
            shape[0], shape[axis] = len(mask), tensor.shape[axis]
            real = real & mask[:, -tensor.shape[axis] :].view(shape)
            mask = mask if where.keys is None else where.keys  # a second pos axis are the keys of a pattern
    if where.axes.count("pos") == 2:
        query, key = (axis for axis, kind in enumerate(where.axes) if kind == "pos")
        q, k = tensor.shape[query], tensor.shape[key]
        shape = [size if axis in (query, key) else 1 for axis, size in enumerate(tensor.shape)]
        real = real & torch.ones(q, k, dtype=torch.bool, device=tensor.device).tril(k - q).view(shape)
    return real
