"""Capture, side by side with its peers in one run: throughput against the bare trunk, and peak memory.

    python scripts/bench_capture.py [--models smollm2-135m gpt2-small] [--repeats 5] [--device cpu]

Every contender reads the same tokens on the same weights; the numbers are compared before anything is timed. The limit
is the bare trunk: the same forward without a hook. Ours chooses its own batches, so the limit is timed at those too.
Ratios are medians over repeats in which all contenders take turns.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from capture_contenders import (
    FORWARDS,
    Contender,
    bare,
    bare_in_parts,
    cached,
    full,
    hooked,
    load,
    nnsight,
    ours_to_disk,
    ours_to_memory,
    residual,
)
from torch import Tensor

from interp.cli.terminal import print_table

PROCESSES = 3  # what malloc gives back differs from one to the next
LIMIT, DISK = "bare trunk (the limit)", "ours, to disk"
BLIND = (LIMIT, "bare trunk, in the batches of ours", "full forward, with logits")  # these capture nothing
MEMORY = ("bare trunk", "output_hidden_states", DISK)  # measured in a process of their own


def contenders_of(model: Any, hooked_model: Any, layers: range, folder: Path) -> dict[str, Contender]:
    """Everybody who can capture the residual stream after these layers of this model."""
    sites, stop = residual(model, layers), max(layers) + 1
    contenders = {
        LIMIT: bare(model),
        "bare trunk, in the batches of ours": bare_in_parts(model),
        "full forward, with logits": full(model),
        "ours, to memory": ours_to_memory(model, sites),
        DISK: ours_to_disk(model, sites, folder),
    }
    for name, theirs in (("TransformerBridge", model.bridge), ("HookedTransformer", hooked_model)):
        if theirs is not None:
            contenders |= {
                f"{name}, default cache": cached(theirs),
                f"{name}, filtered": cached(theirs, names_filter=sites),
                f"{name}, filtered and stopped": cached(theirs, names_filter=sites, stop_at_layer=stop),
            }
    return contenders | {name: run for name, run in (("nnsight", nnsight(model, layers)),) if run is not None}


def check_agreement(contenders: dict[str, Contender], ids: Tensor, sites: list[str]) -> None:
    """Every contender must see the same numbers before it is timed."""
    reference = {site: torch.cat(pieces) for site, pieces in contenders["ours, to memory"](ids).items()}
    for name, run in contenders.items():
        if name in BLIND:
            continue
        theirs = run(ids)
        for site in sites:
            rows = theirs.rows(site, 0, ids.numel()) if name == DISK else theirs[site]
            rows = torch.cat(rows) if isinstance(rows, list) else rows
            gap = (rows.float().cpu().view_as(reference[site]) - reference[site]).abs().max()
            relative = float(gap / reference[site].abs().max())
            assert relative < 1e-4, f"{name}, {site}: {relative:.1e} apart"


def seconds_of(contenders: dict[str, Contender], ids: Tensor, repeats: int) -> dict[str, list[float]]:
    """Seconds of every contender, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            if ids.is_cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            result = run(ids)
            if ids.is_cuda:
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                times[name].append((time.perf_counter() - start) / (FORWARDS if name == DISK else 1))
            del result
    return times


def compare(model: Any, shape: tuple[int, ...], repeats: int, folder: Path) -> Iterator[tuple[str, ...]]:
    """All layers and one middle layer, every contender."""
    torch.manual_seed(1)
    ids = torch.randint(100, 40_000, shape, device=model.device)
    middle, hooked_model = model.n_layers // 2 - 1, hooked(model)
    for what, layers in (("all layers", range(model.n_layers)), ("middle layer", range(middle, middle + 1))):
        contenders = contenders_of(model, hooked_model, layers, folder / what)
        with torch.no_grad():
            check_agreement(contenders, ids, residual(model, layers))
            times = seconds_of(contenders, ids, repeats)
        limit, logits = (statistics.median(times[name]) for name in (LIMIT, "full forward, with logits"))
        for name, found in times.items():
            ratios = (f"{statistics.median(whole / t for t in found):.2f}" for whole in (limit, logits))
            yield what, name, f"{ids.numel() / statistics.median(found):,.0f}", *ratios


def peak_memory(name: str, device: str) -> Iterator[tuple[str, ...]]:
    """Peak memory above the loaded model, each in a process of its own."""
    for what in MEMORY:
        command = [sys.executable, __file__, "--measure-memory", what, "--models", name, "--device", device]
        found = [
            float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            for _ in range(PROCESSES)
        ]
        yield what, f"{statistics.median(found):.0f}"


def measure_memory(what: str, name: str, device: str) -> float:
    """Peak memory of a run at 4x512, all layers, less that before it, in MB: the process', or the GPU's."""
    model = load(name, device)
    ids = torch.randint(100, 40_000, (4, 512), device=device)
    with tempfile.TemporaryDirectory(dir=".") as folder, torch.no_grad():
        run: Contender = {
            "bare trunk": bare(model),
            "output_hidden_states": bare(model, output_hidden_states=True),
            DISK: ours_to_disk(model, residual(model, range(model.n_layers)), Path(folder)),
        }[what]
        run(ids[:1, :8])  # builds what is built once
        gc.collect()
        if ids.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            run(ids)
            return round((torch.cuda.max_memory_allocated() - held) / 1e6, 1)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        held = status("VmRSS")
        for _ in range(1 if what == DISK else 3):  # that one runs its tokens several times by itself
            run(ids)
        return round((status("VmHWM") - held) / 1000, 1)


def status(key: str) -> int:
    """A line of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gpt2-small"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", default=["8x128", "4x512"], help="prompts x tokens")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure-memory", choices=MEMORY, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        print(measure_memory(options.measure_memory, options.models[0], options.device))
        return
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads\n")
    for name in options.models:
        print_table((f"{name}, all layers, 4x512", "MB above the model"), list(peak_memory(name, options.device)))
        model = load(name, options.device)
        for title in options.shapes:
            shape = tuple(map(int, title.split("x")))
            header = (f"{name}, {title}", "contender", "tokens/s", "of the bare trunk", "of a full forward")
            with tempfile.TemporaryDirectory(dir=".") as folder:
                rows = list(compare(model, shape, options.repeats, Path(folder)))
            print()
            print_table(header, rows)
        print(flush=True)


if __name__ == "__main__":
    main()
