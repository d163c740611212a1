"""What else is asked of a cache: may its prompts be repeated, and may tokens be read on it side by side?

`asked.cache_works` says whether one text may go on from its own cache; that is a part of both questions here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.model.hooks.asked import Engine, cache_works
from interp.model.hooks.bridge import relative_gap
from interp.model.hooks.engines import Ran, run_hooked, run_plain
from interp.model.hooks.forward import engine_for
from interp.model.hooks.host import known
from interp.model.hooks.tokens import Tokens
from interp.model.hooks.tolerance import of_logits
from interp.model.hooks.tree import HookedTree

SIDE_BY_SIDE = 256  # tokens read again in one forward, when a model is asked
# What a model, or a cache of another kind, raises when it is asked for what it cannot do.
CANNOT = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, NotImplementedError)


def cache_repeats(tree: HookedTree, sites: Iterable[str] = ()) -> bool:
    """May a forward that reads `sites` go on from a cache whose prompts are repeated, several texts behind each?

    Recurrent layers keep a state that transformers' caches do not repeat, or not with the keys of the others.
    """
    engine = engine_for(tree, sites)

    def ask() -> float:
        ids = varied_ids(tree, 6)
        whole = Tokens.full(torch.cat([ids, ids.flip(1)]))
        n = whole.ids.shape[1] - 2
        first = Tokens.full(whole.ids[:, :n])
        twice = repeated(_run(tree, engine, first, use_cache=True).cache, 2)
        ids, past = (part.repeat_interleave(2, 0) for part in (whole.ids[:, n:], first.mask))
        later = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(len(ids)), len(ids), past=past)
        on_top = _run(tree, engine, later, cache=twice).logits
        return relative_gap(on_top, _run(tree, engine, whole).logits[:, n:].repeat_interleave(2, 0))

    return tree.once(f"cache repeats {engine}", lambda: cache_works(tree, engine) and _agrees(tree, ask))


def repeated(cache: Any, copies: int) -> Any:
    """A copy of a cache, with every prompt `copies` times in a row."""
    cache = copy.deepcopy(cache)  # a forward adds to the one that it is given
    cache.batch_repeat_interleave(copies)
    return cache


def copies_of(batch: Tokens) -> int:
    """How often each prompt of a batch stands there, one behind the other; 1 where not all stand there as often."""
    ids, mask = known(batch.ids), known(batch.mask)
    differ = ((ids[1:] != ids[:-1]) | (mask[1:] != mask[:-1])).any(1)
    ends = [*(differ.nonzero().flatten() + 1).tolist(), len(batch.ids)]
    lengths = {end - start for start, end in zip([0, *ends], ends, strict=False)}
    return lengths.pop() if len(lengths) == 1 else 1


def one_of_each(batch: Tokens, copies: int) -> Tokens:
    """The batch with every prompt once, where each stands there `copies` times."""
    first = slice(None, None, copies)
    return Tokens(batch.ids[first], batch.mask[first], batch.index[first], batch.total)


def cache_deals(tree: HookedTree, sites: Iterable[str] = ()) -> bool:
    """May a forward that reads `sites` go on from some prompts of a cache, in any order, and from one of them twice?"""
    engine = engine_for(tree, sites)

    def ask() -> float:
        ids = varied_ids(tree, 6)
        whole = Tokens.full(torch.cat([ids, ids.flip(1)]))
        n, places = whole.ids.shape[1] - 2, [1, 0, 1]
        cache = _run(tree, engine, Tokens.full(whole.ids[:, :n]), use_cache=True).cache
        later = on_top(whole.ids[places, n:], whole.ids[places, :n])
        expected = _run(tree, engine, whole).logits[places, n:]
        # twice: the cache that they are dealt from must be left as it was
        return max(relative_gap(_run(tree, engine, later, cache=dealt(cache, places)).logits, expected) for _ in "12")

    return tree.once(f"cache deals {engine}", lambda: cache_works(tree, engine) and _agrees(tree, ask))


def dealt(cache: Any, places: Sequence[int]) -> Any:
    """A copy of a cache with the prompts at these places of it, in this order."""
    cache = copy.deepcopy(cache)  # a forward adds to the one that it is given
    cache.batch_select_indices(torch.tensor(list(places)))
    return cache


def on_top(ids: Tensor, before: Tensor) -> Tokens:
    """The batch that reads `ids` behind `before`, which a cache holds."""
    real, past = (torch.ones_like(part, dtype=torch.bool) for part in (ids, before))
    return Tokens(ids, real, torch.arange(len(ids)), len(ids), past=past)


def reads_side_by_side(tree: HookedTree, site: str, length: int) -> bool:
    """May tokens be read again side by side, each seeing those before its own place, with a change at `site`?

    They go on top of the cache of `length` tokens or fewer, with a mask that says who sees what, and are cropped off
    again. Such a mask takes the place of a window of the model's own: the answer is for this length.
    """
    engine = engine_for(tree, (), [site])
    if engine != engine_for(tree, [site]):  # one has read the tokens, the other would go on from its cache
        return False

    def ask() -> float:
        ids = varied_ids(tree, length)
        rows = torch.arange(length, device=ids.device)[-SIDE_BY_SIDE:]
        again = side_by_side(ids[0], rows)
        ran = _run(tree, engine, Tokens.full(ids), keep=len(rows), use_cache=True)
        _run(tree, engine, again, cache=ran.cache)
        ran.cache.crop(-len(rows))  # what is left must be the cache as it was
        return relative_gap(_run(tree, engine, again, cache=ran.cache).logits, ran.logits)

    return tree.once(f"side by side {engine} {length}", lambda: cache_works(tree, engine) and _agrees(tree, ask))


def side_by_side(ids: Tensor, rows: Tensor) -> Tokens:
    """The tokens at `rows` of one text, to be read on top of its cache; each sees those before it, and itself."""
    past = torch.arange(len(ids), device=ids.device)[None] < rows[:, None]
    sees = torch.cat([past, torch.eye(len(rows), dtype=torch.bool, device=ids.device)], 1)
    again = ids[rows][None]
    real = torch.ones_like(ids[None], dtype=torch.bool)
    here = torch.ones_like(again, dtype=torch.bool)
    return Tokens(again, here, torch.arange(1), 1, past=real, sees=sees, places=rows[None])


def varied_ids(tree: HookedTree, length: int) -> Tensor:
    """One prompt of so many tokens, no two neighbours alike, to ask a model with."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(1, tree.config.vocab_size, (1, length), generator=draw).to(tree.hf.device)


def _agrees(tree: HookedTree, ask: Callable[[], float]) -> bool:
    try:
        with torch.no_grad():
            return ask() < of_logits(tree.hf.dtype)
    except CANNOT:
        return False


def _run(tree: HookedTree, engine: Engine, batch: Tokens, **how: Any) -> Ran:
    if engine == "plain":
        return run_plain(tree.hf, batch, [], **how)
    return run_hooked(tree.bridge, batch, [], masked=True, **how)
