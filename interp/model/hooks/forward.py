"""The one forward: whatever reads, edits or asks for logits goes through here.

It runs the plain Hugging Face model when every site that is read or edited has a tap there, whose values agree with
the hooked tree's and where an edit does the same (asked once, see `asked.py`); else it runs the hooked tree. No caller
knows which. Edits that are active (`Model.edit`) reach every forward and leave receipts on either. Context length,
padding, caches and positions that depend on the batch are decided here too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.active import Active
from interp.model.hooks.asked import (
    Engine,
    cache_works,
    context_length,
    edits_agree,
    has_length_switch,
    length_kind,
    padding_is_harmless,
    sees_the_cut,
    takes_a_mask,
    tap_of,
)
from interp.model.hooks.editing import Doubts, apply_edit, edit_in_turns
from interp.model.hooks.engines import Keep, Ran, Reader, chosen, run_hooked, run_plain
from interp.model.hooks.late import Late, started
from interp.model.hooks.metrics import Metric, apply_metric, needs_last_only
from interp.model.hooks.midstream import ends_of, past_the_mlp
from interp.model.hooks.taps import Tap
from interp.model.hooks.tokens import Side, Tokens, batches_of, pad
from interp.model.hooks.tree import HookedTree
from interp.model.hooks.where import Where


class _Enough(Exception):  # noqa: N818 - control flow, not a fault
    """Raised inside a forward once the last wanted site has been read."""


def forward(
    tree: HookedTree,
    batch: Tokens,
    *,
    watch: Mapping[str, Reader] | None = None,
    change: Mapping[str, Reader] | None = None,
    keep: Keep = "all",
    cache: Any = None,
    use_cache: bool = False,
    gradients: bool = False,
    late: Late | None = None,
) -> Ran:
    """Run one padded batch: logits [prompt, kept, d_vocab] and, if asked for, attention's cache.

    `watch`: functions by site (full names) that are shown the activation [prompt, pos, …], after the edits there;
    what they return takes its place, for the same values with a gradient of their own. `change`: the same for
    functions that change values, without the checks and the receipt of an edit. `keep`: the logits of "all" positions,
    of each prompt's "last" token, or of the last so many columns. `cache`: what an earlier forward of the tokens
    `batch.past` gave; it grows. `late`: the stream behind the first blocks, which the plain model need not run again
    (`late.py`: where it `starts_late`). RuntimeErrors of torch come through.
    """
    watch, change = watch or {}, change or {}
    tree.warn_of_unopened()
    engine = engine_for(tree, watch, change)
    token = object()

    def during(function: Reader) -> Reader:
        """Act in this forward only: an edit may ask the model, whose hooks are the same."""
        return lambda tensor: function(tensor) if tree.running is token else None

    doubts = None if tree.hf.device.type == "cpu" else Doubts()
    hooks = [(active.site, during(_editor(tree, active, batch, doubts))) for active in tree.active]
    hooks += [(site, during(function)) for some in (change, watch) for site, function in some.items()]
    hooks = past_the_mlp(tree, hooks)
    names = [site for site, _ in hooks]
    cut = "all" if any(sees_the_cut(tree, site) for site in names) else keep
    masked = engine == "hooked" and (batch.is_full or not batch.pads_right_only or takes_a_mask(tree))
    outer, tree.running = tree.running, token
    try:
        with torch.set_grad_enabled(gradients):
            how: dict[str, Any] = {"keep": cut, "cache": cache, "use_cache": use_cache}
            if engine == "plain":
                taps = [(_tap(tree, site), function) for site, function in hooks]
                with started(tree, late, token) if late else nullcontext() as put:
                    ran = run_plain(tree.hf, batch, [put, *taps] if put else taps, **how)
            else:
                with tree.opened(names):
                    attached = [tree.attached_at(site, function) for site, function in hooks]
                    ran = run_hooked(tree.bridge, batch, attached, masked=masked, **how)
    except _Enough:
        if doubts:
            doubts.settle()
        raise
    finally:
        tree.running = outer
    if doubts:
        doubts.settle()
    return ran if cut == keep else Ran(chosen(ran.logits, batch, keep), ran.cache)


def measure_batch(tree: HookedTree, batch: Tokens, metric: Metric, *, cache: Any = None) -> Tensor:
    """One number a prompt of the batch; of a metric that reads the last token alone, no other logits are computed."""
    if not needs_last_only(metric):
        return apply_metric(metric, forward(tree, batch, cache=cache).logits, batch)
    logits = forward(tree, batch, keep="last", cache=cache).logits
    last = Tokens.full(batch.ids.gather(1, batch.last[:, None]))
    return apply_metric(metric, logits, replace(last, index=batch.index, total=batch.total))


def engine_for(tree: HookedTree, watch: Iterable[str] = (), change: Iterable[str] = ()) -> Engine:
    """Which of the two runs a forward that reads `watch` and changes `change`, with the edits that are active."""
    tree.follow()
    edited = [*change, *(active.site for active in tree.active)]
    names = [*watch, *edited]
    names += ends_of(tree, names)
    if tree.engine == "hooked" or tree.hf.training:  # the plain model would drop out; the hooked tree never does
        return "hooked"
    if any(active.of_gradient for active in tree.active) or tree.switches_of(names):
        return "hooked"
    if any(tap_of(tree, site) is None for site in names):
        return "hooked"
    return "plain" if all(edits_agree(tree, site) for site in edited) else "hooked"


def path_for(tree: HookedTree, watch: Iterable[str] = ()) -> str:
    """The same as records of runs name it."""
    return {"plain": "plain model", "hooked": "hooked tree"}[engine_for(tree, watch)]


def read(tree: HookedTree, batch: Tokens, sites: Sequence[str]) -> dict[str, Tensor]:
    """The activations of one batch at these sites (full names), after the edits there."""
    seen: dict[str, Tensor] = {}
    stream(tree, batch, sites, lambda site, value: seen.update({site: value.detach().clone()}))
    return {site: seen[site] for site in sites}


def stream(
    tree: HookedTree, batch: Tokens, sites: Sequence[str], on: Callable[[str, Tensor], None], *, cache: Any = None
) -> None:
    """Call `on(site, activation)` as each site is reached; the forward ends with the last of them.

    The activation is the model's own tensor: copy what is to be kept. A `cache` that is gone on from is of no use
    afterwards: some layers have added to it. Raises UserError for a site that never comes.
    """
    missing = set(sites)

    def reader(site: str) -> Reader:
        def see(value: Tensor) -> None:
            if site in missing:  # a module that runs twice shows its first run
                on(site, value)
                missing.discard(site)
                if not missing:
                    raise _Enough

        return see

    with suppress(_Enough):
        forward(tree, batch, watch={site: reader(site) for site in sites}, keep=1, cache=cache)
    if missing:
        raise UserError(f"nothing came at {', '.join(sorted(missing))}: the hook never fired in this forward")


def batches(
    tree: HookedTree,
    rows: Sequence[Sequence[int]],
    batch_size: int,
    padding: Side,
    sites: Iterable[str] = (),
    *,
    alike: Callable[[int], Hashable] | None = None,
) -> Iterator[Tokens]:
    """The prompts in padded batches of similar length, as a forward that reads `sites` may take them.

    Prompts that would change each other's numbers are kept apart: of different kinds of length (LongRoPE), or of
    different lengths at all where padding reaches real tokens. `alike`: what else prompts of one batch must share, by
    their numbers. Raises UserError for a side that the model cannot have.
    """
    lengths = [len(row) for row in rows]
    kind: Callable[[int], Any] = lambda i: length_kind(tree, lengths[i])  # noqa: E731
    if len(set(lengths)) > 1:
        engine = engine_for(tree, sites)
        harmless = padding_is_harmless(tree, engine, padding)
        if padding == "left" and not harmless:
            raise UserError(f"padding on the left changes what {type(tree.hf).__name__} computes; use padding='right'")
        if not harmless and engine == "hooked":  # it can be left untold of padding at the right
            harmless = padding_is_harmless(tree, engine, padding, masked=False)
        if not harmless:
            kind = lambda i: lengths[i]  # noqa: E731
    for group in batches_of(rows, batch_size, kind if alike is None else lambda i: (kind(i), alike(i))):
        yield pad([rows[i] for i in group], group, len(rows), padding, 0, tree.hf.device)


def check_fits(tree: HookedTree, rows: Sequence[Sequence[int]], new: int = 0) -> None:
    """Raise UserError for prompts that do not fit the context, with `new` tokens behind them, or the embedding."""
    context = context_length(tree)
    embedded = int(tree.hf.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr,arg-type]
    for i, row in enumerate(rows):
        if context and context < len(row) + new:
            told = f"prompt {i} has {len(row)} tokens" + (f", and {new} new ones are asked for" if new else "")
            raise UserError(f"{told}; this model takes {context} at most; shorten it")
        if max(row) >= embedded:
            raise UserError(
                f"prompt {i} holds token id {max(row)}, but this model embeds ids 0 to {embedded - 1} only; "
                "its tokenizer belongs to another model"
            )


def keeps_a_cache(tree: HookedTree, sites: Iterable[str], rows: Sequence[Sequence[int]], new: int) -> bool:
    """May a forward that reads `sites` go on from a cache, `new` tokens further than these prompts?

    Not where the cache is known to change the numbers, nor where positions change on the way.
    """
    if has_length_switch(tree) and len({length_kind(tree, len(r) + n) for r in rows for n in (0, new)}) > 1:
        return False
    return cache_works(tree, engine_for(tree, sites))


def _tap(tree: HookedTree, site: str) -> Tap:
    tap = tap_of(tree, site)
    assert tap is not None
    return tap


def _editor(tree: HookedTree, active: Active, batch: Tokens, doubts: Doubts | None) -> Reader:
    """The function that applies an edit to the activation at its site, or to the gradient there."""
    axes = tree.site_table.axes[active.site]
    keys = batch.whole_mask if batch.past is not None and axes.count("pos") > 1 else None
    where = Where(active.site, batch.index, batch.total, batch.mask, axes, batch.before, keys)
    runs = count()
    doubts = None if active.of_gradient else doubts  # gradients come when the forward is over

    def apply(value: Tensor) -> Tensor:
        with tree.resting():  # what an edit asks of the model is answered without edits, or it would ask for ever
            if batch.turns and "pos" in axes:
                kept = batch.kept and batch.kept.of(active, next(runs), per_prompt=axes[0] == "prompt")
                return edit_in_turns(active.edit, value, where.on(value.device), active.receipt, batch.turns, kept)
            return apply_edit(
                active.edit, value, where.on(value.device), active.receipt, is_full=batch.is_full, doubts=doubts
            )

    def apply_to_gradient(value: Tensor) -> Tensor | None:
        if not value.requires_grad:
            return None
        new = value.clone()  # so that only what flows through this site is changed
        new.register_hook(apply)
        return new

    return apply_to_gradient if active.of_gradient else apply
