"""The modules of the plain Hugging Face model, found by the names of the hooked tree, and what goes in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.model.bridge import module_path
from interp.model.model import Model


@dataclass(frozen=True)
class Tap:
    """Where the plain model shows a site: the input or the output of one of its modules."""

    module: torch.nn.Module
    is_input: bool


def find_tap(model: Model, origin: str) -> Tap | None:
    """The module behind the hooked tree's own name of a site (`SiteTable.origin`); None where no module shows it."""
    component, _, end = origin.rpartition(".")
    if end not in ("hook_in", "hook_out", "hook_hidden_states"):
        return None
    module = plain_module(model, component)
    return None if module is None else Tap(module, end == "hook_in")


def plain_module(model: Model, component: str, child: str = "") -> torch.nn.Module | None:
    """The plain module of a component of the hooked tree (`blocks.3.attn.o`), or its `child`; None without one."""
    path = module_path(model.bridge, component)
    try:
        return model.hf.get_submodule(f"{path}.{child}" if child else path) if path else None
    except AttributeError:
        return None


@contextmanager
def watched(tap: Tap, read: Callable[[Tensor], None]) -> Iterator[None]:
    """While it lasts, every forward calls `read` with the tensor at `tap`, the model's own: copy what is kept."""

    def on_input(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = args[0] if args else kwargs.get("hidden_states")
        if isinstance(value, Tensor):
            read(value)

    def on_output(_: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        if isinstance(value, Tensor):
            read(value)

    if tap.is_input:
        handle = tap.module.register_forward_pre_hook(on_input, with_kwargs=True)
    else:
        handle = tap.module.register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()
