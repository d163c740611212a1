"""Reading and editing activations, strictly: a hook that did not fire is an error, and an edit leaves a receipt.

An edit is any function `(activation, site) -> activation`. It gets one batch at a time, padding included; `site` says
which prompts these are and where the real tokens lie. It must return the same shape and dtype, with finite numbers.
It may call the model itself: there, no edit is active.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from operator import index

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.sites import layer_of
from interp.model.hooks.tokens import Tokens


@dataclass(frozen=True)
class Site:
    """Where and on what an edit is called.

    `prompts`: which of the caller's `total` prompts the rows are. `mask`: True at real tokens.
    `axes`: what each axis of the activation is ("prompt", "pos", "head", "feature").
    """

    name: str
    prompts: Int[Tensor, " prompt"]
    total: int
    mask: Bool[Tensor, "prompt pos"]
    axes: tuple[str, ...]

    @property
    def layer(self) -> int | None:
        """The layer in the name, or None outside the blocks."""
        return layer_of(self.name)

    def positions(self, pos: int | slice | None = None) -> Bool[Tensor, "prompt pos"]:
        """True at the real tokens chosen by `pos`, counted per prompt without its padding (-1 is the last token)."""
        if pos is None:
            return self.mask
        check_pos(pos)
        pos = pos if isinstance(pos, slice) else index(pos)  # numpy's integers are indices too
        count = self.mask.long().cumsum(-1) - 1  # index of each real token within its own prompt
        length = self.mask.sum(-1, keepdim=True)
        if isinstance(pos, int):
            wanted = torch.where(length + pos >= 0, length + pos, -1) if pos < 0 else torch.full_like(length, pos)
            if bool((wanted < 0).any()) or bool((wanted >= length).any()):
                raise UserError(f"position {pos} is outside a prompt of {int(length.min())} tokens at {self.name}")
            return self.mask & (count == wanted)
        chosen = torch.zeros_like(self.mask)
        for row, n in enumerate(length.flatten().tolist()):
            inside = torch.zeros(n, dtype=torch.bool, device=self.mask.device)
            inside[list(range(n)[pos])] = True
            if not bool(inside.any()):
                raise UserError(f"{pos} chooses no token in a prompt of {n} tokens at {self.name}")
            chosen[row, self.mask[row]] = inside
        return chosen


def check_pos(pos: object, name: str = "pos") -> None:
    """Raise UserError for what chooses no tokens."""
    whole = (pos.start, pos.stop, pos.step) if isinstance(pos, slice) else (pos,)
    try:
        numbers = [index(part) for part in whole if part is not None and not _is_truth(part)]  # type: ignore[arg-type]
    except TypeError:
        numbers = []
    if len(numbers) < sum(part is not None for part in whole) or (isinstance(pos, slice) and pos.step == 0):
        raise UserError(f"{name}={pos!r}; expected None for all tokens, an index or a slice; nest `only` for several")


def _is_truth(part: object) -> bool:
    return isinstance(part, bool) or getattr(part, "dtype", None) in (torch.bool, "bool")


Edit = Callable[[Tensor, Site], Tensor]
Metric = Callable[[Float[Tensor, "prompt pos d_vocab"], Site], Float[Tensor, " prompt"]]  # one number a prompt


@dataclass
class Receipt:
    """What an edit really did: how often it ran, how many of the vectors it saw it changed, and their mean norms.

    `seen` and `changed` count activation vectors of real tokens, every head's by itself. The norms are over those that
    changed: an edit of one token would drown in all the others, and any edit in an attention sink's norm of thousands.
    """

    site: str
    fired: int = 0
    seen: int = 0
    changed: int = 0
    _sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    @property
    def norm_before(self) -> float:
        """Mean L2 norm of the vectors that it changed, as they came in; 0 where it changed none."""
        return self._mean(0)

    @property
    def norm_after(self) -> float:
        """Mean L2 norm of the same vectors as they went out."""
        return self._mean(1)

    @property
    def norm_change(self) -> float:
        """Mean L2 norm of out minus in: 0 means that the edit ran and changed nothing."""
        return self._mean(2)

    def _mean(self, i: int) -> float:
        return self._sums[i] / self.changed if self.changed else 0.0

    def record(self, before: Tensor, after: Tensor) -> None:
        """Add one call; `before` and `after` are [row, feature] at real tokens."""
        before, after = before.detach(), after.detach()
        differs = (before != after).any(-1)
        self.fired += 1
        self.seen += len(before)
        self.changed += int(differs.sum())
        before, after = before[differs].double(), after[differs].double()
        for i, rows in enumerate((before, after, after - before)):
            self._sums[i] += float(rows.norm(dim=-1).sum())

    def __str__(self) -> str:
        norms = f": mean norm {self.norm_before:.4g} -> {self.norm_after:.4g}, change {self.norm_change:.4g}"
        counted = f"changed {self.changed:,} of {self.seen:,} vectors"
        return f"{self.site}: fired {self.fired}x, {counted}{norms if self.changed else ''}"


class Receipts(dict[str, Receipt]):
    """Receipts by site; printing them shows one line a site."""

    def __str__(self) -> str:
        return "\n".join(str(receipt) for receipt in self.values())


def check_edit(name: str, fn: object) -> None:
    """Raise UserError for what cannot be called as an edit. What hides its parameters gets the benefit of the doubt."""
    if not callable(fn):
        raise UserError(
            f"the edit at {name} is a {type(fn).__name__}; expected a function (activation, site) -> activation, "
            "such as patch(source) or steer(direction)"
        )
    try:
        signature(fn).bind(None, None)
    except TypeError as error:
        raise UserError(
            f"the edit at {name} does not take (activation, site); write it with these two parameters, or call it, if "
            f"it makes an edit: {getattr(fn, '__name__', 'it')}(…)"
        ) from error
    except ValueError:
        return


def apply_edit(edit: Edit, tensor: Tensor, site: Site, receipt: Receipt) -> Tensor:
    """Call `edit`, check what it returns, and write the receipt. Raises UserError for a result that cannot be used."""
    before = tensor if torch.is_grad_enabled() else tensor.detach()
    result = edit(before.clone(), site)  # an edit may work in place, and the model may use this tensor elsewhere too
    where = f"the edit {getattr(edit, '__name__', type(edit).__name__)!r} at {site.name}"
    if not isinstance(result, Tensor):
        hint = "; call it first, if it makes an edit" if callable(result) else ""
        raise UserError(
            f"{where} returned {type(result).__name__}; expected a tensor of shape {tuple(before.shape)}{hint}"
        )
    if result.shape != before.shape:
        raise UserError(f"{where} returned shape {tuple(result.shape)}; expected {tuple(before.shape)}")
    if result.device != before.device:
        raise UserError(f"{where} returned a tensor on {result.device}; expected {before.device}")
    if result.dtype != before.dtype:
        raise UserError(f"{where} returned {result.dtype}; expected {before.dtype}; convert with .to(activation.dtype)")
    real = real_entries(site, before)
    masked = before < torch.finfo(before.dtype).min / 2  # scores above the diagonal: -inf, or soon to be
    broken = ~torch.isfinite(result) & ~(masked & (result == -torch.inf)) & torch.isfinite(before)
    if bool((broken & real).any()):
        raise UserError(f"{where} returned NaN or infinite numbers where finite ones came in")
    receipt.record(*(_vectors(t, site, real) for t in (before, result)))
    # Padding stays as it was: NaN there would reach the real tokens as 0 * NaN, an edited pattern would attend to it.
    return result.where(real & ~broken, before)


def apply_metric(metric: Metric, logits: Float[Tensor, "prompt pos d_vocab"], batch: Tokens) -> Tensor:
    """One number a prompt of the batch. Raises UserError for anything else."""
    value = metric(logits, Site("logits", batch.index, batch.total, batch.mask, ("prompt", "pos", "feature")))
    if not isinstance(value, Tensor) or value.shape != (len(batch.index),):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"the metric gave {got}; expected one number a prompt, shape ({len(batch.index)},)")
    return value


def real_entries(site: Site, tensor: Tensor) -> Tensor:
    """True where every pos axis is at a real token, as a mask that broadcasts against `tensor`."""
    real = torch.ones([1] * tensor.ndim, dtype=torch.bool, device=tensor.device)
    for axis, kind in enumerate(site.axes):
        if kind == "pos":
            shape = [1] * tensor.ndim
            shape[0], shape[axis] = site.mask.shape
            real = real & site.mask.view(shape)
    return real


def _vectors(tensor: Tensor, site: Site, real: Tensor) -> Tensor:
    """The activation vectors of real tokens as [row, feature]; heads count as rows of their own.

    Padding on a second pos axis (keys) and the masks' huge negative numbers count as zero.
    """
    masked = ~(tensor.abs() < torch.finfo(tensor.dtype).max / 2)  # NaN and infinity too
    tensor = tensor.masked_fill(~real | masked, 0.0)
    if "pos" in site.axes:
        tensor = tensor.movedim(site.axes.index("pos"), 1)[site.mask]
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
