"""`hook_resid_mid`, the residual stream between attention and MLP: what is changed there also goes past the MLP.

TransformerLens' bridge shows this site at the input of the MLP's norm. What a hook returns there reaches the MLP alone,
and a gradient counts only what the MLP makes of the stream; in HookedTransformer, and by its name, the site is the
stream itself. So a change is added to the block's output too. Name `ln2.hook_in` to change only what the MLP reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.asked import dummy_batch
from interp.model.hooks.bridge import relative_gap
from interp.model.hooks.engines import Reader, run_hooked
from interp.model.hooks.tolerance import of_values
from interp.model.hooks.tree import HookedTree

MID, OUT, MLP = "hook_resid_mid", "hook_resid_post", "hook_mlp_out"
Hook = tuple[str, Reader]


def ends_of(tree: HookedTree, sites: Iterable[str]) -> list[str]:
    """For each of these sites that is in the middle of a block: the site at its end, where the model has one."""
    ends = [f"{site.removesuffix(MID)}{OUT}" for site in sites if site.endswith(f".{MID}")]
    return [end for end in ends if end in tree.site_table.axes]


def past_the_mlp(tree: HookedTree, hooks: Sequence[Hook]) -> list[Hook]:
    """The same hooks, and for each in the middle of a block one at its end that adds the change there.

    The added ones come first: whoever looks at the block's output sees it with the change.
    """
    ends: list[Hook] = []
    middles: list[Hook] = []
    for site, function in hooks:
        if site.endswith(f".{MID}"):
            change, rejoin = _parted(tree, site, function)
            middles.append((site, change))
            ends += [(end, rejoin) for end in ends_of(tree, [site])]
        else:
            middles.append((site, function))
    return [*ends, *middles]


def _parted(tree: HookedTree, site: str, function: Reader) -> tuple[Reader, Reader]:
    changes: list[Tensor] = []

    def change(value: Tensor) -> Tensor | None:
        new = function(value)
        if new is not None:
            if site not in passes_the_mlp(tree):
                raise UserError(
                    f"{site} cannot be changed on this model: the block's output is not this stream plus what the MLP "
                    f"adds, so a change has no one meaning; use {site.removesuffix(MID)}hook_attn_out or {OUT}"
                )
            changes.append(new - value)
        return new

    def rejoin(output: Tensor) -> Tensor | None:
        return output + changes.pop() if changes else None

    return change, rejoin


def passes_the_mlp(tree: HookedTree) -> set[str]:
    """The sites `hook_resid_mid` of blocks that add their MLP's output to it: without any MLP they let it through."""

    def ask() -> set[str]:
        names = tree.site_table.axes
        layers = [site.removesuffix(MID) for site in names if site.endswith(f".{MID}")]
        layers = [layer for layer in layers if {layer + OUT, layer + MLP} <= set(names)]
        seen: dict[str, Tensor] = {}

        def keep(site: str) -> Callable[[Tensor], None]:
            return lambda value: seen.update({site: value.detach().clone()})

        hooks = [tree.attached_at(layer + MLP, torch.zeros_like) for layer in layers]
        hooks += [tree.attached_at(layer + end, keep(layer + end)) for layer in layers for end in (MID, OUT)]
        with torch.no_grad():
            run_hooked(tree.bridge, dummy_batch(tree), hooks, masked=True)
        limit = of_values(tree.hf.dtype)
        return {layer + MID for layer in layers if relative_gap(seen[layer + OUT], seen[layer + MID]) < limit}

    return tree.once("passes the MLP", ask)
