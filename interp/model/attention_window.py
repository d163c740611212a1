"""Sliding-window attention: how far back attention may look, in the whole model or, as an edit, in some layers alone.

Positions stay what they are; only keys further back are hidden. The first token can be left in sight: many models keep
what they do not need on it, and break without it (attention sinks, Xiao et al. 2309.17453). A window hides, and never
shows: a layer whose own window is narrower keeps that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import UserError
from interp.model.edits import check_is_pattern, without_keys
from interp.model.hooks.bridge import relative_gap
from interp.model.hooks.caches import CANNOT, varied_ids
from interp.model.hooks.editing import Edit
from interp.model.hooks.forward import batches, engine_for, forward
from interp.model.hooks.given import makes
from interp.model.hooks.tokens import Tokens
from interp.model.hooks.tolerance import of_values
from interp.model.hooks.tree import looks_once
from interp.model.hooks.where import Where
from interp.model.model import Model

PATTERNS = "blocks.*.attn.hook_pattern"
PROBED = 6  # tokens with which a model is asked whether anything goes past its attention


def in_sight(length: int, window: int, *, first: bool) -> Bool[Tensor, "query key"]:
    """Which keys each query sees: the last `window` tokens, itself included, and with `first` the first one."""
    _check_window(window)
    back = torch.arange(length)[:, None] - torch.arange(length)[None]
    seen = (back >= 0) & (back < window)
    if first:
        seen[:, 0] = True
    return seen


def _check_window(window: int) -> None:
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise UserError(f"window={window!r}; expected 1 (only the token itself) or more")


@looks_once
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
    """Surprise of the tokens from `start` on, in nats, where attention sees `window` tokens in every layer.

    The sequences have one length. None is the model as it is. Edits apply; those of patterns see what is left.
    Raises UserError for sequences of several lengths, and for a window of a model whose tokens know of each other by
    another way than attention (a recurrence, a convolution), or whose attention cannot be reached.
    """
    ids = model.encode(list(rows))
    lengths = {len(row) for row in ids}
    if len(lengths) != 1:
        raise UserError(f"sequences of {len(lengths)} lengths came; expected one length")
    (length,) = lengths
    if not 1 <= start <= length:
        raise UserError(f"start={start}; expected 1 to {length}, the length of the sequences")
    if window is None:
        return _losses(model, ids, None, start, batch_size)
    sees = in_sight(length, window, first=first).to(model.device)
    if _takes_masks(model, length):
        return _losses(model, ids, sees, start, batch_size)
    with _narrowed(model, window, first=first):
        return _losses(model, ids, None, start, batch_size)


def _losses(
    model: Model, ids: list[list[int]], sees: Bool[Tensor, "query key"] | None, start: int, batch_size: int
) -> Float[Tensor, "sequence pos"]:
    out = torch.empty(len(ids), len(ids[0]) - start)
    for batch in batches(model.tree, ids, batch_size, "right"):
        # a vocabulary is wide: only what is looked at
        kept = len(ids[0]) - start + 1
        logits = forward(model.tree, replace(batch, sees=sees), keep=kept).logits[:, :-1].float()
        wanted = batch.ids[:, start:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        out[batch.index] = loss.view(len(wanted), -1).cpu()
    return out


def _takes_masks(model: Model, length: int) -> bool:
    """May a mask say what attention sees in sequences of this length?

    Not where it takes the place of a window of the model's own (then a mask of everything changes the logits), where
    it is refused, or where it does not reach every layer.
    """
    tree, engine = model.tree, engine_for(model.tree)

    def ask() -> bool:
        everything = in_sight(length, length, first=True).to(model.device)
        batch = Tokens.full(varied_ids(tree, length))
        # asked without the caller's edits, which may be why the hooked tree runs
        with tree.hooked_only() if engine == "hooked" else nullcontext():
            try:
                masked, plain = (forward(tree, replace(batch, sees=sees)).logits for sees in (everything, None))
                own = in_sight(PROBED, 1, first=False).to(model.device)
                return relative_gap(masked, plain) < of_values(model.hf.dtype) and _is_hidden(model, own)
            except CANNOT:
                return False

    return tree.once(f"masks {engine} {length}", ask)


@torch.no_grad()
def _is_hidden(model: Model, sees: Bool[Tensor, "query key"] | None) -> bool:
    """Does the first of some tokens mean nothing to the others, where each is to see itself alone?"""
    ids = varied_ids(model.tree, PROBED).repeat(2, 1)
    ids[1, 0] = ids[0, 0] % (model.config.vocab_size - 1) + 1
    one, other = forward(model.tree, replace(Tokens.full(ids), sees=sees)).logits[:, 1:]
    return relative_gap(one, other) < of_values(model.hf.dtype)


@contextmanager
def _narrowed(model: Model, window: int, *, first: bool) -> Iterator[None]:
    """While it lasts, no pattern reaches further back than the window. Raises UserError where that is not enough."""
    cannot = f"a window of {window} cannot be put on {type(model.hf).__name__}"

    def ask() -> bool:
        with model.edit({PATTERNS: windowed(1, first=False)}):
            return _is_hidden(model, None)

    try:
        hides = model.tree.once("patterns hide", ask)
    except UserError as error:
        raise UserError(
            f"{cannot}: it takes no attention mask that would do it, and has no attention patterns that an edit "
            "reaches; use window=None, or another model"
        ) from error
    if not hides:
        raise UserError(
            f"{cannot}: its tokens know of each other by another way than attention (a recurrence, a convolution); "
            "use window=None, or another model"
        )
    tree = model.tree
    with model.edit({PATTERNS: windowed(window, first=first)}) as receipts:
        new = len(receipts)
        tree.active = [*tree.active[-new:], *tree.active[:-new]]  # before the caller's edits, as a mask would be
        yield


@makes("windowed(8)")
def windowed(window: int, *, first: bool = True) -> Edit:
    """An edit of attention patterns: what lies further back is hidden, and what is left of a row sums as it did.

    `first` keeps each prompt's first token in sight, wherever padding or a cache puts it.
    """
    _check_window(window)

    def cut(activation: Tensor, where: Where) -> Tensor:
        check_is_pattern("windowed", where)
        queries, keys = where.numbers()[:, :, None], where.key_numbers(activation.shape[-1])[:, None]
        hidden = (queries - keys >= window) & (keys >= int(first))
        return without_keys("windowed", activation, hidden[:, None], where)

    return cut
