"""Starting late: a forward whose first blocks have run before goes on from the residual stream that they gave.

An edit changes nothing before its own block. Where the same texts are run with many edits of one place, the blocks
before it need to run once: after that they hand their input on, and the stream is put in at the first of them. Asked of
each model, for blocks may share more than the stream (per-layer embeddings, keys of other layers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from interp.model.hooks.asked import dummy_batch, tap_of
from interp.model.hooks.bridge import relative_gap
from interp.model.hooks.engines import Reader, run_plain
from interp.model.hooks.replaced import forwards_replaced
from interp.model.hooks.taps import Tap
from interp.model.hooks.tolerance import of_logits
from interp.model.hooks.tree import HookedTree

FIRST = "blocks.0.hook_resid_pre"
Form = Literal["tensor", "tuple"]
FORMS: tuple[Form, ...] = ("tensor", "tuple")  # with what else a block gives behind the stream


@dataclass(frozen=True)
class Late:
    """The residual stream [prompt, pos, d_model] behind the first `blocks` blocks, which need not run again."""

    blocks: int
    stream: Tensor


def starts_late(tree: HookedTree, blocks: int) -> bool:
    """Does the plain model give its own logits from the stream behind so many blocks?"""
    return blocks > 0 and _form(tree, blocks) is not None


@contextmanager
def started(tree: HookedTree, late: Late, token: object) -> Iterator[tuple[Tap, Reader]]:
    """Hold the first blocks back in the forward with this `token`; yields what puts the stream in at the first one."""
    modules, form, first = _modules(tree, late.blocks), _form(tree, late.blocks), tap_of(tree, FIRST)
    assert modules is not None
    assert form is not None
    assert first is not None
    with handing_on(modules, form, tree, token):
        yield first, lambda value: late.stream.to(value) if tree.running is token else value


def _form(tree: HookedTree, blocks: int) -> Form | None:
    """In what form the first blocks can hand the stream on; None where the logits are others then."""

    def ask() -> Form | None:
        modules, site = _modules(tree, blocks), f"blocks.{blocks}.hook_resid_pre"
        if site not in tree.site_table.axes:  # behind the last block
            site = f"blocks.{blocks - 1}.hook_resid_post"
        first, at = tap_of(tree, FIRST), tap_of(tree, site) if site in tree.site_table.axes else None
        if modules is None or first is None or at is None:
            return None
        batch, seen = dummy_batch(tree), list[Tensor]()
        with torch.no_grad():
            whole = run_plain(tree.hf, batch, [(at, lambda value: seen.append(value.clone()))]).logits
            for form in FORMS:
                try:
                    with handing_on(modules, form, tree, tree.running):
                        late = run_plain(tree.hf, batch, [(first, lambda _: seen[0])]).logits
                except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
                    continue  # blocks give the stream in another form
                if late.shape == whole.shape and relative_gap(late, whole) < of_logits(tree.hf.dtype):
                    return form
        return None

    return tree.once(f"starts late {blocks}", ask)


def _modules(tree: HookedTree, blocks: int) -> list[nn.Module] | None:
    """The first blocks of the plain model; None where they cannot be told."""
    taps = [tap_of(tree, f"blocks.{i}.hook_resid_pre") for i in range(blocks)]
    found = [tap.module for tap in taps if tap is not None and tap.is_input and tap.columns == (None, None)]
    return found if len(found) == blocks else None


@contextmanager
def handing_on(modules: Sequence[nn.Module], form: Form, tree: HookedTree, token: object) -> Iterator[None]:
    """Inside, these blocks give what they get while the forward with this `token` runs, and compute in any other."""
    with forwards_replaced(modules, lambda forward: _passing(forward, form, tree, token)):
        yield


def _passing(compute: Callable[..., Any], form: Form, tree: HookedTree, token: object) -> Callable[..., Any]:
    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if tree.running is not token:
            return compute(hidden_states, *args, **kwargs)
        return hidden_states if form == "tensor" else (hidden_states, None)

    return forward
