"""What a capture will take, measured on its first batch before it starts."""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from interp.activations.capture import ShardRun
from interp.activations.plan import Plan, batches_of
from interp.activations.shards import ShardWriter
from interp.activations.store import Store, layout_of
from interp.activations.token_table import Tokens
from interp.model.model import Model
from interp.paths import expand
from interp.progress import silent


@dataclass(frozen=True)
class Cost:
    """What a capture will take: bytes on disk, free bytes there, seconds in all, the process' peak memory in bytes."""

    size: int
    free: int
    seconds: float
    memory: int


def measure_cost(model: Model, plan: Plan, tokens: Tokens, folder: str | Path) -> Cost:
    """Run the first batch of the plan twice into a file that is thrown away, and reckon from the second run."""
    folder = expand(folder)
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    store = Store(folder, plan, tokens)
    size = sum(layout_of(store, i).size for i in range(len(plan.shards)))
    batch = next(batches_of(tokens, plan.shards[0], plan.batch_tokens))
    run = ShardRun(model, store, silent, 0)
    counted = int(sum(tokens.lengths[i] for i in batch))
    seconds = 0.0
    with tempfile.TemporaryFile() as file:
        writer = ShardWriter(file.fileno(), layout_of(store, 0), plan.sites, 0)
        for _ in range(2):
            start = time.perf_counter()
            with run.offload_to(writer) as offload:
                run.forward(batch, offload)
            seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Cost(size, shutil.disk_usage(above).free, seconds * len(tokens) / counted, memory)
