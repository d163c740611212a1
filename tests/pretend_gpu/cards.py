"""Which cards are pretended, and on which of them a thread works."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Literal

import torch

SPARE = "pretend"  # what PyTorch's C++ calls every card of ours: its spare backend, under this name
Kind = Literal["cuda", "mps"]


@dataclass
class Cards:
    """What is pretended. `major`: the compute capability, 7 for a T4, 9 for an H100. Bytes of memory are of each card.

    `in_use`: by other processes; `cached`: kept by torch's allocator for what comes next, and so not free for others.
    """

    kind: Kind = "cuda"
    count: int = 1
    major: int = 9
    minor: int = 0
    name: str = "Pretend GPU"
    total_memory: int = 80 << 30
    in_use: int = 0
    cached: int = 0
    multi_processor_count: int = 132


CARDS = Cards()
HERE = threading.local()  # a thread's `index` of the card it works on, its `stream`, the card `seen` last


def current() -> int:
    """The card that this thread works on."""
    return getattr(HERE, "index", 0)


def is_ours(device: torch.device) -> bool:
    return device.type in (CARDS.kind, SPARE)


def place(device: Any = None) -> torch.device:
    """The device that is meant, with its index. Raises as CUDA does for a card that is not there."""
    if device is None or isinstance(device, int):
        device = torch.device(CARDS.kind, current() if device is None else device)
    device = torch.device(device)
    if device.type == SPARE:  # C++ makes a tensor beside one that it was given: on the card that was seen last
        return torch.device(CARDS.kind, getattr(HERE, "seen", current()))
    if device.type != CARDS.kind:
        return device
    index = current() if device.index is None else device.index
    if index >= CARDS.count:
        raise RuntimeError(f"CUDA error: invalid device ordinal ({device}; {CARDS.count} are pretended)")
    return torch.device(CARDS.kind, index)
