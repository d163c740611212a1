"""A tap: the input or output of a module, or some columns of it, read or replaced while a forward runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.unchanged import mark_own


@dataclass(frozen=True)
class Place:
    """A tap of a model that is not at hand: the module by its name in plain transformers (`model.layers.3.mlp`)."""

    module: str
    is_input: bool = False
    columns: tuple[int | None, int | None] = (None, None)

    def __str__(self) -> str:
        start, stop = ("" if i is None else str(i) for i in self.columns)
        cut = f"[{start}:{stop}]" if start or stop else ""
        return f"{self.module}:{'input' if self.is_input else 'output'}{cut}"


def parse_place(text: str) -> Place:
    """`PATH`, `PATH:input` or `PATH:output`, with columns of the last axis as in `PATH:output[0:64]`.

    Raises UserError for anything else.
    """
    found = re.fullmatch(r"([\w.*]+)(?::(input|output))?(?:\[(\d*):(\d*)\])?", text)
    if not found:
        raise UserError(
            f"{text!r} names no place; expected a module's name in the plain model, such as "
            "'model.layers.3.mlp.act_fn', with ':input' for what goes in and '[0:64]' for some columns"
        )
    path, end, start, stop = found.groups()
    return Place(path, end == "input", (int(start) if start else None, int(stop) if stop else None))


@dataclass(frozen=True)
class Tap:
    """The input or the output of a module: its first tensor, or some columns of that.

    `heads`: sizes (head, d_head) into which the last axis is parted for whoever looks, or None.
    """

    module: torch.nn.Module
    is_input: bool
    columns: tuple[int | None, int | None] = (None, None)
    heads: tuple[int, int] | None = None


@contextmanager
def tapped(tap: Tap, function: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """While it lasts, every forward calls `function` with the tensor at `tap`; what it returns takes the place.

    The tensor is the model's own: copy what is kept, and return a tensor rather than change this one.
    """

    def see(value: Any) -> Any:
        """What the module gets or gives, with the tensor in it replaced."""
        tensor = value[0] if isinstance(value, tuple | list) and value else value
        if not isinstance(tensor, Tensor):
            return value
        part = tensor[..., slice(*tap.columns)] if tap.columns != (None, None) else tensor
        new = function(part if tap.heads is None else part.unflatten(-1, tap.heads))
        if new is None:
            return value
        if tap.heads is not None:
            new = new.flatten(-2)
        if part is not tensor:
            whole = tensor.clone()
            whole[..., slice(*tap.columns)] = new
            new = whole
        return type(value)([new, *value[1:]]) if isinstance(value, tuple | list) else new

    def on_input(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return see(args), kwargs
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": see(kwargs["hidden_states"])}
        return None

    if tap.is_input:
        handle = tap.module.register_forward_pre_hook(mark_own(on_input), with_kwargs=True)
    else:
        handle = tap.module.register_forward_hook(mark_own(lambda _, __, output: see(output)))
    try:
        yield
    finally:
        handle.remove()
