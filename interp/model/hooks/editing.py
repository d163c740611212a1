"""Reading and editing activations, strictly: a hook that did not fire is an error, and an edit leaves a receipt.

An edit is any function `(activation, where) -> activation`. It gets one batch at a time, padding included; `where` says
which prompts these are and where the real tokens lie. It must return the same shape and dtype, with finite numbers;
None leaves the activation as it is. It may call the model itself: there, no edit is active.

While a model generates, an edit sees the prompt once and then each new token by itself; all of them again only where a
longer text gives every token another position (LongRoPE).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.given import check_metric
from interp.model.hooks.shown import Shown
from interp.model.hooks.sites import layer_of
from interp.model.hooks.tokens import Tokens

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


Edit = Callable[[Tensor, Where], "Tensor | None"]  # None leaves the activation as it is
Change = Callable[[Tensor, Where], Tensor]  # an edit that always returns one
Metric = Callable[[Float[Tensor, "prompt pos d_vocab"], Where], Float[Tensor, " prompt"]]  # one number a prompt


@dataclass(repr=False)
class Receipt:
    """What an edit really did: how often it ran, how many of the vectors it saw it changed, and their mean norms.

    `seen` and `changed` count activation vectors of real tokens, every head's by itself. The norms are over those that
    changed: an edit of one token would drown in all the others, and any edit in an attention sink's norm of thousands.
    """

    site: str
    fired: int = 0
    seen: int = 0
    _sums: list[Tensor] = field(default_factory=list)  # of each call: how many changed, and their three norms, summed

    @property
    def changed(self) -> int:
        """How many vectors it changed."""
        return round(self._total(0))

    @property
    def norm_before(self) -> float:
        """Mean L2 norm of the vectors that it changed, as they came in; 0 where it changed none."""
        return self._mean(1)

    @property
    def norm_after(self) -> float:
        """Mean L2 norm of the same vectors as they went out."""
        return self._mean(2)

    @property
    def norm_change(self) -> float:
        """Mean L2 norm of out minus in: 0 means that the edit ran and changed nothing."""
        return self._mean(3)

    def _total(self, i: int) -> float:
        if len(self._sums) > 1:  # added up when somebody looks: a forward does not wait for it
            self._sums = [torch.stack(self._sums).sum(0)]
        return float(self._sums[0][i]) if self._sums else 0.0

    def _mean(self, i: int) -> float:
        return self._total(i) / self.changed if self.changed else 0.0

    def record(self, before: Tensor, after: Tensor) -> None:
        """Add one call; `before` and `after` are [row, feature] at real tokens."""
        before, after = before.detach(), after.detach()
        if before.dtype in (torch.float16, torch.bfloat16):  # the square of an attention sink's norm is infinite there
            before, after = before.float(), after.float()
        differs = (before != after).any(-1)
        sizes = (torch.linalg.vector_norm(rows, dim=-1) for rows in (before, after, after - before))
        sums = [torch.where(differs, size, 0.0).sum(dtype=torch.float64) for size in sizes]
        self.fired += 1
        self.seen += len(before)
        self._sums.append(torch.stack([differs.sum().double(), *sums]))

    def __repr__(self) -> str:
        return f"Receipt({self})"

    def __str__(self) -> str:
        norms = f": mean norm {self.norm_before:.4g} -> {self.norm_after:.4g}, change {self.norm_change:.4g}"
        counted = f"changed {self.changed:,} of {self.seen:,} vectors"
        return f"{self.site}: fired {self.fired}x, {counted}{norms if self.changed else ''}"


class Receipts(dict[str, Receipt]):
    """Receipts by site; printing them shows one line a site."""

    def __repr__(self) -> str:
        return str(self) or "Receipts()"

    def __str__(self) -> str:
        return "\n".join(str(receipt) for receipt in self.values())


def apply_edit(edit: Edit, tensor: Tensor, where: Where, receipt: Receipt, *, is_full: bool = False) -> Tensor:
    """Call `edit`, check what it returns, and write the receipt. Raises UserError for a result that cannot be used.

    `is_full`: is every token of the batch known to be real? Then nothing is looked at twice.
    """
    before = tensor if torch.is_grad_enabled() else tensor.detach()
    result = call_edit(edit, before, where)
    name = _name_of(edit, where)
    _check_result(name, before, result)
    if is_full and where.axes.count("pos") < 2 and math.isfinite(float(result.detach().sum())):
        receipt.record(*(t.flatten(0, -2) if t.ndim > 1 else t.unsqueeze(-1) for t in (before, result)))
        if (
            before.requires_grad and not result.requires_grad
        ):  # a constant: what came in has no effect, and a slope of 0
            return result.where(torch.ones((), dtype=torch.bool, device=result.device), before)
        return result
    real = real_entries(where, before)
    masked = before < torch.finfo(before.dtype).min / 2  # scores above the diagonal: -inf, or soon to be
    broken = ~torch.isfinite(result) & ~(masked & (result == -torch.inf)) & torch.isfinite(before)
    if bool((broken & real).any()):
        raise UserError(f"{name} returned NaN or infinite numbers where finite ones came in")
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


def told_padding(metric: Metric) -> Metric:
    """The metric, marked as one that asks `where.mask` what is padding: prompts of any length may come in one batch.

    Others get prompts of one length at a time, so that `logits[:, -1]` or a mean over positions meets no padding.
    """
    metric.is_told_padding = True  # type: ignore[attr-defined]
    return metric


def heeds_padding(metric: Metric) -> bool:
    """May prompts of different lengths come to this metric in one batch?"""
    return needs_last_only(metric) or getattr(metric, "is_told_padding", False) is True


def at_last(metric: Metric) -> Metric:
    """The metric, marked as one that reads the logits of the last token alone: the others are not computed for it."""
    metric.needs_last_only = True  # type: ignore[attr-defined]
    return metric


def needs_last_only(metric: Metric) -> bool:
    """Does the metric read the logits of the last token alone?"""
    return getattr(metric, "needs_last_only", False) is True


def apply_metric(metric: Metric, logits: Float[Tensor, "prompt pos d_vocab"], batch: Tokens) -> Tensor:
    """One number a prompt of the batch. Raises UserError for anything else."""
    check_metric(metric)
    value = metric(logits, Where("logits", batch.index, batch.total, batch.mask, ("prompt", "pos", "feature")))
    if not isinstance(value, Tensor) or value.shape != (len(batch.index),):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"the metric gave {got}; expected one number a prompt, shape ({len(batch.index)},)")
    return value


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


def _vectors(tensor: Tensor, where: Where, real: Tensor) -> Tensor:
    """The activation vectors of real tokens as [row, feature]; heads count as rows of their own.

    Padding on a second pos axis (keys) and the masks' huge negative numbers count as zero.
    """
    masked = ~(tensor.abs() < torch.finfo(tensor.dtype).max / 2)  # NaN and infinity too
    tensor = tensor.masked_fill(~real | masked, 0.0)
    if "pos" in where.axes:
        tensor = tensor.movedim(where.axes.index("pos"), 1)[where.mask]
    return tensor.flatten(0, -2) if tensor.ndim > 1 else tensor.unsqueeze(-1)


def place(
    out: dict[str, Tensor], name: str, piece: Tensor, batch: Tokens, whole: Tokens, axes: tuple[str, ...]
) -> None:
    """Write a batch's activation into `out[name]`, which holds all prompts padded to one length.

    Padding is NaN there, on every pos axis, so that it can never slip into a mean unseen.
    """
    n, width = whole.ids.shape
    length = batch.ids.shape[1]
    if name not in out:
        shape = [n, *(width if axes[i] == "pos" else size for i, size in enumerate(piece.shape) if i > 0)]
        out[name] = torch.full(shape, float("nan"), dtype=piece.dtype, device=piece.device)
    for axis, kind in enumerate(axes):
        if kind == "pos" and not bool(batch.mask.all()):
            shape = [1] * piece.ndim
            shape[0], shape[axis] = batch.mask.shape
            piece = piece.masked_fill(~batch.mask.view(shape), float("nan"))
    # the real tokens of a batch stand on the same side as those of the whole
    left = bool(whole.mask[:, -1].all()) and not bool(whole.mask[:, 0].all())
    span = slice(width - length, width) if left else slice(0, length)
    out[name][(batch.index, *(span if kind == "pos" else slice(None) for kind in axes[1:]))] = piece
