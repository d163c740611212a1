"""The plain model with its parts compiled by torch: the same values, in another order of sums.

What is compiled are the largest modules inside the blocks that hold no site in their middle, so that hooks stay outside
of compiled code and see what they always see. It takes seconds to a minute at the first forward, and again for a second
size of batch; after that sizes are variables.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from interp.errors import UserError
from interp.model.hooks.asked import tap_of
from interp.model.hooks.forward import engine_for
from interp.model.hooks.midstream import ends_of
from interp.model.hooks.replaced import forwards_replaced
from interp.model.hooks.tree import HookedTree
from interp.model.hooks.unchanged import mark_own


@contextmanager
def compiled(tree: HookedTree, sites: Sequence[str]) -> Iterator[None]:
    """Inside, forwards of the plain model that read `sites` (full names) run compiled parts; then it is as it was.

    Raises UserError as `check_compiled` does.
    """
    check_compiled(tree, sites)
    taps = [tap_of(tree, site) for site in [*sites, *ends_of(tree, list(sites))]]
    parts = list(_parts(tree.hf, {id(tap.module) for tap in taps if tap is not None}))
    with forwards_replaced(parts, lambda forward: mark_own(_compile(forward))):
        yield


def check_compiled(tree: HookedTree, sites: Sequence[str]) -> None:
    """Raise UserError where these sites are read from the hooked tree, and where torch cannot compile."""
    if engine_for(tree, sites) != "plain":
        raise UserError(
            f"a site among {', '.join(sites[:3])} is read from the hooked tree, which is not compiled; leave --compile "
            "out, or choose sites that the plain model shows, such as blocks.*.hook_resid_post"
        )
    check_compiler(tree.hf.device)


def check_compiler(device: torch.device) -> None:
    """Raise UserError where torch cannot compile for the device: no C++ compiler, no Triton, too old a card."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's compiler warns of other parts of torch
            _compile(lambda x: torch.sin(x) + 1)(torch.ones(8, device=device))
    except Exception as error:  # what it raises depends on which part of the chain is missing
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        needed = "Triton" if device.type == "cuda" else "a C++ compiler (g++)"
        raise UserError(
            f"torch.compile does not work on {device} here ({reason[:120]}); it needs {needed}; leave --compile out"
        ) from error


def _compile(function: Callable[..., Any]) -> Any:
    return torch.compile(function)


def _parts(module: nn.Module, tapped: set[int], in_block: bool = False) -> Iterator[nn.Module]:
    """The largest modules inside the blocks without a site in their middle."""
    for child in module.children():
        inside = in_block or isinstance(module, nn.ModuleList)
        is_run = not isinstance(child, nn.ModuleList | nn.ModuleDict)
        cut = any(id(part) in tapped for part in child.modules() if part is not child)
        if inside and is_run and not cut and any(True for _ in child.parameters()):
            yield child
        else:
            yield from _parts(child, tapped, inside)
