"""A model whose blocks lie on several cards, as transformers' `device_map` loads it.

There accelerate replaces each module's forward with one that moves its inputs to its card. The hooked tree is a tree of
its own and moves them by hooks of ours, at the modules whose weights and buffers all lie on one card (the embedding,
each block, the final norm, the unembedding): what runs inside of these stays there. Captured activations come to the
first card.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from interp.errors import UserError
from interp.model.hooks.unchanged import is_accelerated, mark_own


def devices_of(hf: nn.Module) -> list[torch.device]:
    """Where weights and buffers lie, each device once, in the model's order."""
    return list(dict.fromkeys(tensor.device for tensor in (*hf.parameters(), *hf.buffers())))


def place_like(hf: Any, other: Any) -> Any:
    """`hf`, a model of `other`'s architecture, where `other` lies: on its card, or block by block on its cards."""
    places = getattr(other, "hf_device_map", {})
    if len(devices_of(other)) == 1 or len(set(places.values())) < 2:
        return hf.to(other.device)
    from accelerate import dispatch_model

    return dispatch_model(hf, places)


def check_in_memory(hf: PreTrainedModel) -> None:
    """Raise UserError for a model of which some weights wait on a disk or in main memory until their module runs."""
    away = [name for name, p in hf.named_parameters() if p.device.type == "meta"]
    if away:
        raise UserError(
            f"{len(away)} weights of this {type(hf).__name__} are not in memory ({away[0]}, …): it was loaded with "
            "offload to a disk or to the CPU; expected a model that fits; load it in bf16, quantised, or on more cards"
        )


def dispatchers(hf: nn.Module) -> list[Any]:
    """The hooks of accelerate: they hold tensors of the model, and are not to be copied with its modules."""
    return [vars(module)["_hf_hook"] for module in hf.modules() if is_accelerated(module)]


def detach_dispatchers(tree: nn.Module) -> None:
    """Let the modules of a copy run without accelerate's hooks."""
    for module in tree.modules():
        if is_accelerated(module):
            for name in ("_hf_hook", "_old_forward", "forward"):
                vars(module).pop(name, None)


def hand_over(tree: nn.Module) -> None:
    """Make every module whose weights lie on one card take its inputs there, from whichever card they come."""
    for module, device in _on_one_card(tree):

        def bring(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device = device
        ) -> tuple[Any, Any]:
            return tree_map_only(Tensor, lambda tensor: tensor.to(device), (args, kwargs))

        module.register_forward_pre_hook(mark_own(bring), with_kwargs=True)


def _on_one_card(module: nn.Module) -> Iterator[tuple[nn.Module, torch.device]]:
    """The outermost modules whose weights share a card."""
    devices = devices_of(module)
    if len(devices) == 1 and not isinstance(module, nn.ModuleList | nn.ModuleDict):  # these are never called
        yield module, devices[0]
        return
    for child in module.children():
        yield from _on_one_card(child)
