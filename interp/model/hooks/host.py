"""What the program knows of a tensor on a GPU without asking it: its copy in main memory, and what was made of it.

Where padding stands, how long prompts are and which tokens an edit chose is decided before a batch goes to the device.
To read it back from there makes the program wait until the device has done everything before. A tensor that was changed
in place since is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Made = TypeVar("Made")


@dataclass
class _Known:
    version: int
    host: Tensor | None = None
    made: dict[Hashable, Any] = field(default_factory=dict)


_all: Any = WeakTensorKeyDictionary()


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, its numbers known here; nobody waits for a CUDA device to have it."""
    if device.type == "cpu":
        return tensor
    there = tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
    _of(there).host = tensor
    return there


def joined(first: Tensor, more: Tensor, host: Tensor) -> Tensor:
    """`first` with more columns, of which `host` is the copy in main memory."""
    return _same(torch.cat([first, more], 1), lambda: torch.cat([known(first), host], 1))


def cut(tensor: Tensor, at: int) -> tuple[Tensor, Tensor]:
    """The columns before `at`, and those from there on."""
    return _same(tensor[:, :at], lambda: known(tensor)[:, :at]), _same(tensor[:, at:], lambda: known(tensor)[:, at:])


def _same(there: Tensor, host: Callable[[], Tensor]) -> Tensor:
    if there.device.type != "cpu":
        _of(there).host = host()
    return there


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor whose numbers are known in main memory on the device, uploaded once for all who ask."""
    if device in (tensor.device, torch.device("cpu")):
        return known(tensor) if device.type == "cpu" else tensor
    return made_of(tensor, ("sent", device), lambda: upload(known(tensor), device))


def known(tensor: Tensor) -> Tensor:
    """The tensor in main memory; fetched once where nobody knows it."""
    if tensor.device.type == "cpu":
        return tensor
    mine = _of(tensor)
    if mine.host is None:
        mine.host = tensor.cpu()
    return mine.host


def beside(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor with the device and dtype of `like`, moved once for all who ask; one with a gradient each time."""
    is_there = (tensor.device, tensor.dtype) == (like.device, like.dtype)
    if tensor.requires_grad or is_there or like.device.type == "cpu":
        return tensor.to(like)
    return made_of(tensor, ("beside", like.device, like.dtype), lambda: tensor.to(like))


def made_of(tensor: Tensor, what: Hashable, make: Callable[[], Made]) -> Made:
    """`make()`, which follows from the tensor, once for all who ask for `what` of it.

    It is kept as long as the tensor, so it must not be the tensor itself: that would never go.
    """
    made = _of(tensor).made
    if what not in made:
        made[what] = make()
    return made[what]


def _of(tensor: Tensor) -> _Known:
    version = 0 if tensor.is_inference() else tensor._version
    mine = _all.get(tensor)
    if mine is None or mine.version != version:
        mine = _all[tensor] = _Known(version)
    return mine
