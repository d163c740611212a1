"""Write one site's rows to disk, side by side: a store's shard, SAELens' runner, raw appends. All fsynced.

    python scripts/bench_store_writer.py [--repeats 9]

Ours computes norms and moments and hashes the shard besides. In memory (/dev/shm) one sees what each costs where the
disk is no limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from interp.cli.terminal import print_table


def compare(repeats: int, folder: Path) -> list[tuple[str, ...]]:
    """One site's rows to `folder`: ours, SAELens' runner (its shard and save_to_disk), raw appends; all fsynced."""
    import datasets
    from datasets import Array2D, Features, Sequence, Value
    from sae_lens import CacheActivationsRunner

    from interp.activations.files import new_file
    from interp.activations.shards import ShardWriter, shard_layout

    datasets.disable_progress_bars()
    n, length, d = 64, 512, 768
    values = torch.randn(n, length, d)
    flat = values.flatten(0, 1)
    token_ids = torch.zeros(n * length, dtype=torch.int64)
    runner: Any = object.__new__(CacheActivationsRunner)
    runner.cfg = type("cfg", (), {"hook_name": "site", "n_seq_in_buffer": n, "d_in": d})
    runner.context_size = length
    runner.features = Features(
        {
            "site": Array2D(shape=(length, d), dtype="float32"),
            "token_ids": Sequence(Value(dtype="int32"), length=length),
        }
    )
    count = 0

    def raw() -> None:
        with (folder / f"raw{count}").open("wb", buffering=0) as file:
            for row in values.numpy():
                file.write(row)
            os.fsync(file.fileno())

    def ours() -> None:
        layout = shard_layout({"site": [d]}, n * length, torch.float32, "plan", 0)
        with new_file(folder / f"ours{count}.safetensors", layout.size) as file:
            shard = ShardWriter(file.descriptor, layout, {"site": [d]}, 0)
            for start in range(0, n, 4):
                shard.put(
                    "site", [(i * length, (i + 1) * length) for i in range(start, start + 4)], values[start : start + 4]
                )
                file.begin_sync()
            shard.close()

    def theirs() -> None:
        runner._create_shard((flat, token_ids)).save_to_disk(str(folder / f"sae{count}"), num_shards=1)
        os.sync()

    times: dict[str, list[float]] = {"raw appends (the limit)": [], "ours": [], "SAELens' runner": []}
    for _ in range(repeats):
        for name, run in zip(times, (raw, ours, theirs), strict=True):
            count += 1
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    limit = statistics.median(times["raw appends (the limit)"])
    rows = []
    for name, found in times.items():
        median = statistics.median(found)
        rows.append((name, f"{values.numel() * 4 / 1e6 / median:.0f}", f"{limit / median:.2f}"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    for place, where in (("disk", "."), ("memory", "/dev/shm")):
        with tempfile.TemporaryDirectory(dir=where) as folder:
            print_table((f"writer, to {place}", "MB/s", "of raw appends"), compare(options.repeats, Path(folder)))
            print(flush=True)


if __name__ == "__main__":
    main()
