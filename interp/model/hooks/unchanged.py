"""Is this still the model that was hooked? Its modules, settings, hooks and weights, as one comparable value.

The hooked tree is a copy of the model's modules that shares its parameters. Whatever changes the modules afterwards
(an adapter added, switched on or off, a module swapped, a move to another device or dtype, a hook of the user's) would
reach the one and not the other, and give numbers of the old model under the new one's name. So the copy is compared
before each use and made anew where something moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

OWN = "_interp_own"  # marks hooks that this toolkit attaches for the length of one forward
PLAIN = (bool, int, float, str)
# What nn.Module keeps of itself, looked at below, what a forward of a rotary table writes, and the config, which is
# looked at once.
NO_SETTINGS = frozenset(vars(nn.Module())) | {"max_seq_len_cached", "config"}


def mark_own(hook: Any) -> Any:
    """The hook, marked as one of ours: a fingerprint leaves it out."""
    setattr(hook, OWN, True)
    return hook


def fingerprint(hf: PreTrainedModel, *, memory: bool = True) -> tuple[Hashable, ...]:
    """What a forward of the model rests on: equal before and after means that nobody changed it.

    The config, modules by identity, their plain settings (an adapter that is switched off is one), the users' hooks,
    and of every parameter, buffer and tensor that a module keeps its memory, dtype and version. A change through
    `.data` in place moves none of these; the hooked tree computes with the same memory. Without `memory`, a move to
    another device or dtype is no change.
    """
    return tuple(_facts(hf, memory))


def made_of(hf: PreTrainedModel) -> str:
    """Config, modules, their plain settings, tables and how many hooks they carry: the same in another process."""
    told = [repr(_public(hf.config) | {"transformers_version": None})]
    for name, module in hf.named_modules():
        settings = [(key, value) for key, value in _settings(module) if not callable(getattr(module, key, None))]
        hooks = [len(kept) for kept in _user_hooks(module)]
        tables = {
            key: hashlib.sha256(_bytes(table)).hexdigest()
            for key in sorted(module._non_persistent_buffers_set)
            if (table := module._buffers.get(key)) is not None and not _is_rewritten(module, key)
        }  # the others belong to the weights
        told.append(f"{name} {type(module).__name__} {settings} {hooks} {tables}")
    return "\n".join(told)


def _facts(hf: PreTrainedModel, memory: bool) -> Iterator[Hashable]:
    yield repr({key: value for key, value in _public(hf.config).items() if memory or "dtype" not in key})
    for name, module in hf.named_modules():
        yield (name, id(module), *_settings(module), *_user_hooks(module))
        for key, value in vars(module).items():
            if key not in NO_SETTINGS and isinstance(value, torch.Tensor) and not _is_rewritten(module, key):
                yield (key, tuple(value.shape), *_sums(value))  # some are made anew in each forward, with equal values
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            is_weight = key in module._parameters
            yield (key, id(tensor) if is_weight else 0, tuple(tensor.shape))
            if memory:
                yield tensor.dtype
            if memory and (is_weight or not _is_rewritten(module, key)):
                yield (tensor.data_ptr(), str(tensor.device), tensor._version)
            elif is_weight:
                yield tensor._version


def _public(config: Any) -> dict[str, Any]:
    """The config without where it came from, nor which kernel computes attention: the hooks choose their own."""
    return {key: value for key, value in vars(config).items() if not key.startswith("_")}


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _is_rewritten(module: nn.Module, key: str) -> bool:
    """Is it a rotary table that every forward may make anew, to fit the length of its prompts?"""
    kind = str(getattr(module, "rope_type", ""))
    return "inv_freq" in key and ("dynamic" in kind or "longrope" in kind)


def is_accelerated(module: nn.Module) -> bool:
    """Did accelerate put a forward of its own in place, which moves inputs to the module's card?"""
    return "_hf_hook" in vars(module) and "_old_forward" in vars(module)


def user_code(hf: PreTrainedModel) -> bool:
    """Does code of a user's run inside the model: a hook, or a function put in a method's place?

    It may do another thing at any time, and no comparison of settings would show it.
    """
    return any(
        any(_user_hooks(module))
        or ("forward" in vars(module) and not is_accelerated(module) and not hasattr(module.forward, OWN))
        for module in hf.modules()
    )


def user_hooks(hf: PreTrainedModel) -> list[Any]:
    """What users hooked to the modules."""
    kept = (hooks for module in hf.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks))
    return [hook for hooks in kept for hook in hooks.values() if not getattr(hook, OWN, False)]


def _settings(module: nn.Module) -> Iterator[tuple[str, Hashable]]:
    """Attributes that are numbers, words, functions or short tables of these: an adapter's name, a norm's epsilon."""
    for key, value in vars(module).items():
        if key in NO_SETTINGS:
            continue
        if hasattr(value, OWN):
            continue
        if isinstance(value, PLAIN):
            yield key, value
        elif isinstance(value, torch.Tensor):
            continue
        elif callable(value):
            yield key, id(value)
        elif isinstance(value, list | tuple | set | dict) and len(value) < 50:
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            if all(isinstance(part, PLAIN) for part in parts):
                yield key, repr(value)


def _user_hooks(module: nn.Module) -> Iterator[tuple[int, ...]]:
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        yield tuple(id(hook) for hook in hooks.values() if not getattr(hook, OWN, False))


@torch.no_grad()
def _sums(weight: torch.Tensor) -> tuple[float, float]:
    return float(weight.float().sum()), float(torch.linalg.vector_norm(weight.float()))
