"""The device that a model runs on: chosen by name, one for each process of torchrun, and described."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch

from interp.errors import UserError

ROOM = 0.9  # of a card's free memory may hold weights; the rest is for what they compute


class Process(NamedTuple):
    """One of the processes that torchrun started: its `rank` of `world`, and its number on this machine."""

    rank: int
    world: int
    local: int


def process_of_torchrun() -> Process | None:
    """Which process of torchrun this is; None where it was started otherwise, or alone.

    Raises UserError for variables that are no numbers.
    """
    told = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if None in told.values():
        return None
    if wrong := [f"{name}={value!r}" for name, value in told.items() if not re.fullmatch(r"\d{1,9}", str(value))]:
        raise UserError(f"{', '.join(wrong)} in the environment; expected numbers, as torchrun sets them")
    rank, world, local = (int(str(value)) for value in told.values())
    return Process(rank, world, local) if world > 1 else None


def pick_devices(device: str | torch.device | None) -> list[torch.device]:
    """The device asked for; of "auto" every card there is, over which a model is spread, or the CPU without one.

    Under torchrun "auto" is the one card of the process. Raises UserError as `pick_device` does.
    """
    if device != "auto":
        return [pick_device(device)]
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if cards < 2 or process_of_torchrun():
        return [pick_device(None)]
    return [pick_device(f"cuda:{index}") for index in range(cards)]


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or CUDA when there is one, else the CPU. Under torchrun each process has a card of its own.

    Raises UserError for a device that is not there, and under torchrun for a card by its number.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    process = process_of_torchrun()
    try:
        chosen = torch.device(device)
        if process is not None and chosen.type == "cuda":
            chosen = _own_card(chosen, process)
        torch.empty(1, device=chosen).item()  # a `meta` tensor has no value
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"device {str(device)!r} cannot be used here; this machine has {_there()}") from error
    return chosen


def _own_card(asked: torch.device, process: Process) -> torch.device:
    if asked.index is not None:
        raise UserError(
            f"device {str(asked)!r} came under torchrun, where all {process.world} processes would use that card; "
            "expected cuda: each process takes the card of its LOCAL_RANK"
        )
    if process.local >= torch.cuda.device_count():
        raise UserError(
            f"torchrun started process {process.local} on this machine, which has {torch.cuda.device_count()} cards; "
            f"start one process a card: torchrun --nproc-per-node {max(1, torch.cuda.device_count())}"
        )
    return torch.device("cuda", process.local)


def _there() -> str:
    cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ", ".join(["cpu", *cards, *(["mps"] if torch.backends.mps.is_available() else [])])


def describe_devices(devices: Sequence[torch.device]) -> str:
    """Devices in words: a model may be spread over several cards."""
    return ", ".join(map(describe_device, devices))


def describe_device(device: torch.device) -> str:
    """A device in words, with what its numbers may hang on."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def card_memory(device: torch.device) -> tuple[int, int]:
    """Bytes of a CUDA card that this process may still use, and all that it has.

    What torch has reserved and not handed out is free: the driver counts it as used.
    """
    free, total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total


def multiplies_bf16(device: torch.device) -> bool:
    """Has the device instructions for bfloat16? Torch says of a card without them that it can, and emulates."""
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
