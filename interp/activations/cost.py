"""What a capture will take, measured on its first batch before it starts."""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from interp.activations.capture import ShardRun
from interp.activations.plan import Plan, batches_of
from interp.activations.shards import ShardWriter
from interp.activations.store import Store, layout_of
from interp.activations.token_table import Tokens
from interp.model.hooks.spread import devices_of
from interp.model.loading.device import card_memory
from interp.model.model import Model
from interp.paths import expand
from interp.progress import silent


@dataclass(frozen=True)
class CardMemory:
    """Bytes of a card that the capture takes, the model included, and that are there for it."""

    card: str
    needed: int
    there: int


@dataclass(frozen=True)
class Compiling:
    """Seconds that compiling took, and how many times as fast a batch is after it."""

    seconds: float
    speedup: float

    @property
    def pays_from(self) -> float:
        """Seconds that a capture takes without it, from which on the gain is larger than the cost; else infinity."""
        return self.seconds / (1 - 1 / self.speedup) if self.speedup > 1.01 else float("inf")


@dataclass(frozen=True)
class Cost:
    """What a capture will take: bytes on disk, free bytes there, seconds in all, the process' peak memory in bytes.

    `cards`: the memory of each card that the model lies on. `compiling`: of a plan that is compiled.
    """

    size: int
    free: int
    seconds: float
    memory: int
    cards: tuple[CardMemory, ...] = ()
    compiling: Compiling | None = None


def measure_cost(model: Model, plan: Plan, tokens: Tokens, folder: str | Path) -> Cost:
    """Run the first batch of the plan three times into a file that is thrown away, and reckon from the later runs.

    Of a compiled plan also without compiling. Raises UserError where the model cannot run as the plan says.
    """
    folder = expand(folder)
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    store = Store(folder, plan, tokens)
    size = sum(layout_of(store, i).size for i in range(len(plan.shards)))
    batch = next(batches_of(tokens, plan.shards[0], plan.batch_tokens))
    run = ShardRun(model, store, silent, 0)
    counted = int(sum(tokens.lengths[i] for i in batch))
    cards = [device for device in devices_of(model.hf) if device.type == "cuda"]
    for card in cards:
        torch.cuda.reset_peak_memory_stats(card)
    compiling = None
    if plan.compiled:
        _, eager = _seconds_of(run, store, batch)
        with run.as_planned():
            first, seconds = _seconds_of(run, store, batch)
        compiling = Compiling(max(first - seconds, 0.0), eager / seconds)
    else:
        _, seconds = _seconds_of(run, store, batch)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    there = tuple(_memory_of(card, model) for card in cards)
    return Cost(size, shutil.disk_usage(above).free, seconds * len(tokens) / counted, memory, there, compiling)


def _seconds_of(run: ShardRun, store: Store, batch: list[int]) -> tuple[float, float]:
    """Seconds of the batch, and of the same again: the shorter of two."""
    taken: list[float] = []
    with tempfile.TemporaryFile() as file:
        writer = ShardWriter(file.fileno(), layout_of(store, 0), store.plan.sites, 0)
        for _ in range(3):
            start = time.perf_counter()
            with run.offload_to(writer) as offload:
                run.forward(batch, offload)
            taken.append(time.perf_counter() - start)
    return taken[0], min(taken[1:])


def _memory_of(card: torch.device, model: Model) -> CardMemory:
    weights = sum(p.numel() * p.element_size() for p in model.hf.parameters() if p.device == card)
    free, _ = card_memory(card)
    return CardMemory(
        str(card), max(weights, torch.cuda.max_memory_allocated(card)), free + torch.cuda.memory_allocated(card)
    )
