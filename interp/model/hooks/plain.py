"""The modules of the plain Hugging Face model, found by the names of the hooked tree."""

from __future__ import annotations

import torch

from interp.model.hooks.bridge import module_path
from interp.model.hooks.taps import Tap
from interp.model.hooks.tree import HookedTree


def find_tap(tree: HookedTree, origin: str) -> Tap | None:
    """The module behind the hooked tree's own name of a site (`SiteTable.origin`); None where no module shows it."""
    if (place := tree.site_table.registered.get(origin)) is not None:
        return Tap(tree.hf.get_submodule(place.module), place.is_input, place.columns)
    component, _, end = origin.rpartition(".")
    if end not in ("hook_in", "hook_out", "hook_hidden_states"):
        return None
    module = plain_module(tree, component)
    return None if module is None else Tap(module, end == "hook_in")


def plain_module(tree: HookedTree, component: str, child: str = "") -> torch.nn.Module | None:
    """The plain module of a component of the hooked tree (`blocks.3.attn.o`), or its `child`; None without one."""
    path = module_path(tree.bridge, component)
    try:
        return tree.hf.get_submodule(f"{path}.{child}" if child else path) if path else None
    except AttributeError:
        return None


def output_of(module: torch.nn.Module, given: torch.Tensor) -> torch.Tensor:
    """What a plain module makes of a tensor, beside that tensor: the module may lie on another card."""
    return module(given).to(given.device)
