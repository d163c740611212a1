"""Capture, side by side with its peers in one run: throughput against the bare trunk, peak memory, the writer.

    python scripts/bench_capture.py [--models smollm2-135m gpt2-small] [--repeats 5] [--device cpu]

Every contender reads the same tokens on the same weights; the numbers are compared before anything is timed. The limit
is the bare trunk: the same forward without a hook. Ratios are medians over repeats in which all contenders take turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHAPES = ((8, 128), (4, 512))
FORWARDS = 4  # of a capture to disk: it lasts, and the disk works while the model runs
MEMORY = ("bare trunk", "output_hidden_states", "ours, to disk")  # measured in a process of their own
Contender = Callable[[Tensor], Any]


def load(name: str, device: str) -> Any:
    """The bundled model, or a GPT-2 of GPT-2-small's shape with random weights."""
    from interp import Model, load_model

    model = load_model("smollm2-135m", device)
    if name == "smollm2-135m":
        return model
    import transformers

    torch.manual_seed(0)
    hf: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    hf = hf.to(device)
    return Model(hf, model.tokenizer, replace(model.provenance, name=name, architecture="GPT2LMHeadModel"))


def residual(model: Any, layers: Sequence[int]) -> list[str]:
    """The residual stream after these blocks."""
    return [f"blocks.{layer}.hook_resid_post" for layer in layers]


def bare(model: Any) -> Contender:
    """The limit: a forward of the trunk and nothing else."""

    def run(ids: Tensor) -> None:
        model.hf.base_model(ids, use_cache=False)

    return run


def full(model: Any) -> Contender:
    """A forward with logits, as a user without a trunk runs it."""

    def run(ids: Tensor) -> None:
        model.hf(ids, use_cache=False)

    return run


def ours_to_memory(model: Any, sites: list[str]) -> Contender:
    """The trunk with hooks, copies kept."""
    from interp.model.trunk import find_taps, read_trunk

    taps = find_taps(model, sites)
    assert len(taps) == len(sites)

    def run(ids: Tensor) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        read_trunk(model, ids, taps, lambda site, value: kept.update({site: value.clone()}))
        return kept

    return run


def ours_to_disk(model: Any, sites: list[str], folder: Path) -> Contender:
    """A whole capture of these tokens, `FORWARDS` times over: shards of one batch, written, hashed, fsynced, sealed."""
    from interp.activations.capture import capture_store
    from interp.activations.plan import Plan, Tokens, cut_shards
    from interp.activations.store import Store

    shapes = {site: [model.d_model] for site in sites}
    count = 0

    def run(ids: Tensor) -> Store:
        nonlocal count
        count += 1
        n, length = ids.shape[0] * FORWARDS, ids.shape[1]
        rows = torch.arange(n * length, dtype=torch.int32)
        tokens = Tokens(
            ids=ids.repeat(FORWARDS, 1).flatten().cpu().int().numpy(),
            document=(rows // length).numpy(),
            position=(rows % length).numpy(),
            starts=torch.arange(0, n * length + 1, length).numpy(),
            file=torch.zeros(n, dtype=torch.int32).numpy(),
            row=torch.arange(n).numpy(),
            files=("bench",),
        )
        row = 4 * model.d_model * len(sites)
        shards = cut_shards(tokens, row, row * ids.numel())
        numerics = {"compute": "float32", "stored": "fp32", "path": "trunk"}
        corpus = {"documents": n, "tokens": n * length}
        plan = Plan({"name": "bench"}, numerics, {}, shapes, ids.numel(), corpus, shards)
        return capture_store(model, folder / str(count), plan, tokens)

    return run


def bridge(model: Any, **settings: Any) -> Contender:
    """TransformerLens' TransformerBridge."""

    def run(ids: Tensor) -> Any:
        return model.bridge.run_with_cache(ids, **settings)[1]

    return run


def hooked(model: Any, **settings: Any) -> Contender | None:
    """TransformerLens' HookedTransformer, which knows GPT-2 and not this SmolLM2: None there."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights

    if model.provenance.name != "gpt2-small":
        return None
    c = model.hf.config
    theirs = HookedTransformer(
        HookedTransformerConfig(
            n_layers=c.n_layer,
            d_model=c.n_embd,
            n_ctx=c.n_positions,
            d_head=c.n_embd // c.n_head,
            n_heads=c.n_head,
            d_mlp=4 * c.n_embd,
            d_vocab=c.vocab_size,
            act_fn="gelu_new",
            normalization_type="LN",
            eps=c.layer_norm_epsilon,
            device=str(model.device),
        )
    )
    theirs.load_state_dict(convert_gpt2_weights(model.hf, theirs.cfg), strict=False)
    return lambda ids: theirs.run_with_cache(ids, **settings)[1]


def nnsight(model: Any, layers: Sequence[int]) -> Contender | None:
    """nnsight, where it is installed."""
    try:
        from nnsight import NNsight  # type: ignore[import-not-found]
    except ImportError:
        return None
    wrapped = NNsight(model.hf.base_model)
    blocks = "h" if hasattr(model.hf.base_model, "h") else "layers"

    def run(ids: Tensor) -> dict[str, Tensor]:
        with wrapped.trace(ids, use_cache=False):
            saved = list().save()  # type: ignore[attr-defined] # noqa: C408 - nnsight adds the method
            for layer in layers:
                saved.append(getattr(wrapped, blocks)[layer].output)
        outputs = [value[0] if isinstance(value, tuple) else value for value in saved]
        return dict(zip(residual(model, layers), outputs, strict=True))

    return run


def agree(reference: dict[str, Tensor], theirs: Any, sites: list[str]) -> None:
    """Every contender must see the same numbers before it is timed."""
    for site in sites:
        gap = (theirs[site].float().cpu() - reference[site].cpu()).abs().max() / reference[site].abs().max().cpu()
        assert float(gap) < 1e-4, f"{site}: {float(gap):.1e} apart"


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
                times[name].append((time.perf_counter() - start) / (FORWARDS if name == "ours, to disk" else 1))
            del result
    return times


def compare(model: Any, shape: tuple[int, int], repeats: int, folder: Path) -> list[dict[str, Any]]:
    """All layers and one middle layer, every contender."""
    torch.manual_seed(1)
    ids = torch.randint(100, 40_000, shape, device=model.device)
    everything, middle = range(model.n_layers), [model.n_layers // 2 - 1]
    rows = []
    for what, layers in (("all layers", everything), ("one middle layer", middle)):
        sites = residual(model, layers)
        stop = max(layers) + 1
        contenders: dict[str, Contender | None] = {
            "bare trunk (the limit)": bare(model),
            "full forward, with logits": full(model),
            "ours, to memory": ours_to_memory(model, sites),
            "ours, to disk": ours_to_disk(model, sites, folder / f"{model.provenance.name}-{shape[0]}-{what}"),
            "TransformerBridge, default cache": bridge(model),
            "TransformerBridge, filtered": bridge(model, names_filter=sites),
            "TransformerBridge, filtered and stopped": bridge(model, names_filter=sites, stop_at_layer=stop),
            "HookedTransformer, default cache": hooked(model),
            "HookedTransformer, filtered and stopped": hooked(model, names_filter=sites, stop_at_layer=stop),
            "nnsight": nnsight(model, layers),
        }
        there = {name: contender for name, contender in contenders.items() if contender is not None}
        with torch.no_grad():
            reference = there["ours, to memory"](ids)
            for name in there:
                if name not in ("bare trunk (the limit)", "full forward, with logits", "ours, to disk"):
                    agree(reference, there[name](ids), sites)
            store = there["ours, to disk"](ids)
            agree(reference, {site: store.rows(site, 0, ids.numel()).view(*shape, -1) for site in sites}, sites)
            times = seconds_of(there, ids, repeats)
        limit = statistics.median(times["bare trunk (the limit)"])
        for name, found in times.items():
            median = statistics.median(found)
            rows.append(
                {
                    "model": model.provenance.name,
                    "tokens": f"{shape[0]}x{shape[1]}",
                    "captured": what,
                    "contender": name,
                    "tokens/s": round(ids.numel() / median),
                    "of the bare trunk": round(statistics.median(limit / t for t in found), 3),
                }
            )
    return rows


def writer(repeats: int, folder: Path, place: str) -> list[dict[str, Any]]:
    """One site's rows to `folder`: ours, SAELens' runner (its shard and save_to_disk), raw appends; all fsynced."""
    import datasets
    from datasets import Array2D, Features, Sequence, Value
    from sae_lens import CacheActivationsRunner

    from interp.activations.shards import ShardWriter, new_file, shard_layout

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
    size = values.numel() * 4
    limit = statistics.median(times["raw appends (the limit)"])
    return [
        {
            "writer": n,
            "MB/s": round(size / 1e6 / statistics.median(t)),
            "of raw appends": round(limit / statistics.median(t), 3),
        }
        for n, t in times.items()
    ]


def peak_memory(name: str, device: str) -> list[dict[str, Any]]:
    """Peak memory above the loaded model, each in a process of its own."""
    rows = []
    for what in MEMORY:
        command = [sys.executable, __file__, "--measure-memory", what, "--models", name, "--device", device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(
            {"model": name, "all layers, 4x512": what, "MB above the model": json.loads(done.stdout.splitlines()[-1])}
        )
    return rows


def measure_memory(what: str, name: str, device: str) -> float:
    """Peak resident memory of three runs less that before them, in MB."""
    model = load(name, device)
    ids = torch.randint(100, 40_000, (4, 512), device=device)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        run: Contender = (
            (lambda ids: model.hf.base_model(ids, use_cache=False, output_hidden_states=what != "bare trunk"))
            if what != "ours, to disk"
            else ours_to_disk(model, residual(model, range(model.n_layers)), Path(folder))
        )
        model.hf.base_model(ids[:1, :8], use_cache=False)
        if what == "ours, to disk":
            run(ids[:1, :8])  # builds what is built once
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = status("VmRSS")
        run(ids)
        return round((status("VmHWM") - before) / 1000, 1)


def status(key: str) -> int:
    """A line of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def show(rows: list[dict[str, Any]]) -> None:
    """A plain table."""
    table = [list(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())
    print(flush=True)


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gpt2-small"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure-memory", choices=MEMORY, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        print(measure_memory(options.measure_memory, options.models[0], options.device))
        return
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads\n")
    for place, where in (("disk", "."), ("memory", "/dev/shm")):  # memory: what it costs where the disk is no limit
        with tempfile.TemporaryDirectory(dir=where) as folder:
            show(writer(options.repeats, Path(folder), place))
    for name in options.models:
        show(peak_memory(name, options.device))
        model = load(name, options.device)
        for shape in SHAPES:
            with tempfile.TemporaryDirectory(dir=".") as folder:
                show(compare(model, shape, options.repeats, Path(folder)))


if __name__ == "__main__":
    main()
