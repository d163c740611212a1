"""What is asked of a model once, instead of read from a table of architectures.

Which sites the plain model shows, and whether an edit there does the same; whether padding reaches a real token;
whether a cache gives what a whole forward gives; whether positions depend on how long the batch is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from interp.model.hooks.bridge import dummy_ids, relative_gap
from interp.model.hooks.engines import Keep, Reader, run_hooked, run_plain
from interp.model.hooks.plain import find_tap
from interp.model.hooks.sites import kind_of
from interp.model.hooks.taps import Tap
from interp.model.hooks.tokens import Side, Tokens
from interp.model.hooks.tolerance import of_logits, of_values
from interp.model.hooks.tree import SEE_THE_CUT, HookedTree

Engine = Literal["plain", "hooked"]
ASKED = 40  # tokens of the prompts with which padding is tried: more than a tiny model's window
PADDED = 8  # columns of padding


def tap_of(tree: HookedTree, site: str) -> Tap | None:
    """Where the plain model shows a site, with the values that the hooked tree has there; None where it does not.

    Asked for all layers at once: two forwards a kind of site.
    """
    kind = kind_of(site)

    def ask() -> dict[str, Tap]:
        return _find_taps(tree, [name for name in tree.site_table.axes if kind_of(name) == kind])

    return tree.once(f"taps {kind}", ask).get(site)


def ask_all_taps(tree: HookedTree) -> None:
    """Ask `tap_of` of every kind of site in two forwards, for a check of them all."""
    kinds: dict[str, list[str]] = {}
    for name in tree.site_table.axes:
        kinds.setdefault(kind_of(name), []).append(name)
    taps = tree.once("all taps", lambda: _find_taps(tree, tree.site_table.axes))
    for kind, names in kinds.items():
        tree.once(f"taps {kind}", lambda names=names: {name: taps[name] for name in names if name in taps})


def edits_agree(tree: HookedTree, site: str) -> bool:
    """Does an edit at the tap of the plain model do to the logits what it does at the site of the hooked tree?"""
    place = f"{kind_of(site)} {kind_of(tree.site_table.origin[site])}"

    def ask() -> bool:
        tap = tap_of(tree, site)
        assert tap is not None
        batch = dummy_batch(tree)
        with torch.no_grad():
            plain = run_plain(tree.hf, batch, [(tap, _ramp)]).logits
            hooked = run_hooked(tree.bridge, batch, [tree.attached_at(site, _ramp)], masked=True).logits
        return relative_gap(plain, hooked) < of_logits(tree.hf.dtype)

    return tree.once(f"edits agree {place}", ask)


def sees_the_cut(tree: HookedTree, site: str) -> bool:
    """Does a site lie at the unembedding or behind it, where only those columns come by whose logits are asked for?"""
    if site not in tree.registered:
        return "unembed" in site

    def ask() -> set[str]:
        whole: dict[str, Tensor] = {}
        cut: dict[str, Tensor] = {}
        ways: list[tuple[dict[str, Tensor], Keep]] = [(whole, "all"), (cut, 1)]
        with torch.no_grad():
            batch = dummy_batch(tree)
            for seen, kept in ways:
                at = [tree.attached_at(name, _keep(seen, name)) for name in tree.registered]
                run_hooked(tree.bridge, batch, at, masked=True, keep=kept)
        return {name for name in whole if whole[name].shape != cut[name].shape}

    return site in tree.once(SEE_THE_CUT, ask)


def padding_is_harmless(tree: HookedTree, engine: Engine, side: Side, *, masked: bool = True) -> bool:
    """Does padding on this side leave the logits of the real tokens alone?

    On the left it does not in some recurrent models. On the right it does not where attention chooses among all tokens
    of the batch (GLM-MoE-DSA); `masked` says whether the hooked tree is told of it (GPT-1 must not be).
    """

    def ask() -> bool:
        if (chosen := getattr(tree.config, "index_topk", None)) is not None and chosen >= ASKED:
            return False  # attention chooses among more tokens than can be tried
        with torch.no_grad():
            context = context_length(tree) or ASKED + PADDED
            batch = dummy_batch(tree, max(2, min(ASKED, context - PADDED)))
            width = min(PADDED, context - batch.ids.shape[1])
            if width < 1:
                return True
            more = (0, width) if side == "right" else (width, 0)
            ids, mask = (nn.functional.pad(t, more) for t in (batch.ids, batch.mask))
            padded = Tokens(ids, mask, batch.index, batch.total)
            alone, beside = (_run(tree, engine, tokens, masked=masked) for tokens in (batch, padded))
            n = batch.ids.shape[1]
            beside = beside[:, :n] if side == "right" else beside[:, -n:]
            return relative_gap(beside, alone) < of_logits(tree.hf.dtype)

    return tree.once(f"padding {engine} {side} {masked}", ask)


def takes_a_mask(tree: HookedTree) -> bool:
    """Is the hooked tree right when it is told of padding at the right? Else it is not told of it."""
    return padding_is_harmless(tree, "hooked", "right", masked=True)


def cache_works(tree: HookedTree, engine: Engine) -> bool:
    """Do tokens that are read on top of the cache get the logits that they get in a whole forward?"""

    def ask() -> bool:
        whole = dummy_batch(tree)
        n = whole.ids.shape[1] - 2
        first = Tokens(whole.ids[:, :n], whole.mask[:, :n], whole.index, whole.total)
        later = Tokens(whole.ids[:, n:], whole.mask[:, n:], whole.index, whole.total, past=whole.mask[:, :n])
        try:
            with torch.no_grad():
                cache = _ran(tree, engine, first, use_cache=True).cache
                if cache is None:
                    return False
                on_top = _ran(tree, engine, later, cache=cache).logits
                gap = relative_gap(on_top, _ran(tree, engine, whole).logits[:, n:])
                return gap < of_logits(tree.hf.dtype)
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, NotImplementedError):
            return False

    return tree.once(f"cache {engine}", ask)


def context_length(tree: HookedTree) -> int | None:
    """The most tokens that the model takes; None where its config names no limit."""
    limit = getattr(tree.config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def length_kind(tree: HookedTree, length: int) -> Hashable:
    """Lengths of one kind see the same positions; a batch of two kinds would give some prompt the other's.

    LongRoPE (Phi-3) stretches all positions once the longest prompt of a batch passes a limit.
    """
    switch, varies = tree.once("length switch", lambda: _length_switch(tree))
    if switch is None or length <= switch:
        return 0
    return length if varies else 1


def has_length_switch(tree: HookedTree) -> bool:
    """Are there two kinds of length?"""
    return tree.once("length switch", lambda: _length_switch(tree))[0] is not None


def _find_taps(tree: HookedTree, sites: Iterable[str]) -> dict[str, Tap]:
    table = tree.site_table
    axes = {("prompt", "pos", "feature"), ("prompt", "pos", "head", "feature")}
    candidates = {
        s: tap for s in sites if table.axes[s] in axes and (tap := find_tap(tree, table.origin[s])) is not None
    }
    if not candidates:
        return {}
    batch = dummy_batch(tree)
    plain: dict[str, Tensor] = {}
    hooked: dict[str, Tensor] = {}
    with torch.no_grad():
        run_plain(tree.hf, batch, [(tap, _keep(plain, site)) for site, tap in candidates.items()], keep=1)
        hooks = [tree.attached_at(site, _keep(hooked, site)) for site in candidates]
        run_hooked(tree.bridge, batch, hooks, masked=True, keep=1)
    limit = of_values(tree.hf.dtype)
    agreeing: dict[str, Tap] = {}
    for site, tap in candidates.items():
        if site not in plain or site not in hooked:
            continue
        seen, wanted = plain[site], hooked[site]
        if wanted.ndim == 4 and seen.ndim == 3 and wanted.shape[2] * wanted.shape[3] == seen.shape[2]:
            tap = Tap(tap.module, tap.is_input, tap.columns, (wanted.shape[2], wanted.shape[3]))
            seen = seen.unflatten(-1, tap.heads or ())
        if seen.shape == wanted.shape and relative_gap(seen, wanted) < limit:
            agreeing[site] = tap
    return agreeing


def _keep(into: dict[str, Tensor], site: str) -> Reader:
    def keep(value: Tensor) -> None:
        into.setdefault(site, value.detach().clone())  # a module that runs twice shows its first run

    return keep


def _ramp(value: Tensor) -> Tensor:
    """A change that an edit at any other place would not make."""
    ramp = torch.linspace(0.9, 1.1, value.shape[-1], device=value.device)
    return value * ramp.to(value.dtype) + 0.01


def dummy_batch(tree: HookedTree, length: int = 6) -> Tokens:
    """Two prompts of so many tokens, to ask a model with."""
    return Tokens.full(dummy_ids(tree.config.vocab_size, tree.hf.device, length))


def _ran(tree: HookedTree, engine: Engine, batch: Tokens, *, masked: bool = True, **how: Any) -> Any:
    if engine == "plain":
        return run_plain(tree.hf, batch, [], **how)
    return run_hooked(tree.bridge, batch, [], masked=masked, **how)


def _run(tree: HookedTree, engine: Engine, batch: Tokens, *, masked: bool) -> Tensor:
    return _ran(tree, engine, batch, masked=masked).logits


def _length_switch(tree: HookedTree) -> tuple[int | None, bool]:
    """(the greatest length of the first kind, does every greater length have positions of its own?)"""
    context = context_length(tree)
    if context is None or context < 4:
        return None, False
    for module in tree.hf.modules():
        if not any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            continue
        for table in _tables(module):
            first = table(2)
            if first is None or torch.equal(first, table(context)):
                continue
            low, high = 2, context  # the table at `low` is the first one's, at `high` it is not
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if torch.equal(first, table(middle)) else (low, middle)
            varies = not torch.equal(table(high), table(context))
            table(2)  # leave the module as it was found
            return low, varies
    return None, False


def _tables(rotary: nn.Module) -> list[Callable[[int], Any]]:
    """Functions from a prompt's length to the rotary table at its first positions, one for each kind of layer."""
    device = next((b.device for b in rotary.buffers()), torch.device("cpu"))

    def at(length: int, **more: Any) -> Any:
        places = torch.tensor([[0, 1, length - 1]], device=device)
        try:
            with torch.no_grad():
                made = rotary(torch.zeros(1, 3, 1, device=device), places, **more)
        except (TypeError, RuntimeError, ValueError, AttributeError, KeyError, IndexError):
            return None
        made = torch.cat(made, -1) if isinstance(made, tuple) else made
        return made[..., :2, :].clone() if isinstance(made, Tensor) else None

    kinds = sorted(set(getattr(rotary, "layer_types", None) or ()))
    if "layer_type" in signature(rotary.forward).parameters and kinds:
        return [partial(at, layer_type=kind) for kind in kinds]
    return [at]
