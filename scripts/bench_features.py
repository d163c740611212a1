"""An index of features beside SAEDashboard: time, memory, size; `python scripts/bench_features.py --peer PYTHON`.

    python -m venv peer && peer/bin/pip install sae-dashboard==0.8.0 "pyarrow<21"
    python scripts/bench_features.py --peer peer/bin/python

Both get the same tokens, model and SAE, all of its features; each runs in a process of its own. SAEDashboard caches the
activations on disk, its best setting for many features. First the results are compared: each feature's share of tokens
and largest activation. Ours without the forward reads a store of the same activations; ablations, which SAEDashboard
does not have, are left out. The bar is one forward of the model as far as the SAE's site, over the same tokens: the
pass cannot be shorter.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from interp.cli.terminal import print_table


@dataclass(frozen=True)
class Settings:
    """What to compare."""

    peer: Path | None = None
    """Python of a venv with sae-dashboard; without it only our own figures."""
    sequences: int = 128
    """Sequences of 128 tokens."""
    features: int = 4608
    """Features that SAEDashboard computes, the first ones; ours are always all."""
    ours: Path | None = None
    """Used by the script itself, in a process of its own."""
    mode: str = "model"
    """Used by the script itself: model, store or forward."""


def tokens_of(n: int) -> np.ndarray:
    """`n` sequences of 128 tokens of the bundled sample."""
    from interp import load_model
    from interp.text.corpus import load_corpus
    from interp.text.data import data

    model = load_model("smollm2-135m")
    found: list[list[int]] = []
    for text in load_corpus(data("corpus/smollm2_sample.jsonl")):
        ids = model.tokenizer(text).input_ids
        found += [ids[i : i + 128] for i in range(0, len(ids) - 127, 128)]
    return np.array((found * -(-n // len(found)))[:n], np.int32)


def measure_ours(folder: Path, mode: str) -> None:
    """Build from the model or a store, or only run the model; writes what it took to `folder`."""
    from interp import load_model
    from interp.activations.capture import capture_store
    from interp.activations.plan import batches_of, plan_capture
    from interp.activations.rows import read_rows
    from interp.activations.store import open_store
    from interp.activations.token_table import Cut, Tokens
    from interp.features.build.inputs import Building
    from interp.features.build.passes import build_index
    from interp.features.build.plan import Settings as IndexSettings
    from interp.features.build.plan import plan_index
    from interp.saes.loading.default import shipped_sae
    from interp.saes.loading.sae import load_sae, site_of

    ids = np.load(folder / "tokens.npy")
    n, length = ids.shape
    model = load_model("smollm2-135m")
    sae = load_sae(shipped_sae(model) or "", model)
    site = site_of(sae)
    plan, _ = plan_capture(model, ["any text"], [site], cut=Cut(length))
    number = np.repeat(np.arange(n, dtype=np.int32), length)
    place = np.tile(np.arange(length, dtype=np.int32), n)
    starts = np.arange(0, n * length + 1, length, dtype=np.int64)
    once = np.zeros(n, np.int32)
    tokens = Tokens(ids.ravel(), number, place, starts, once, np.arange(n, dtype=np.int64), ("tokens.npy",))
    plan = replace(plan, corpus=plan.corpus | {"tokens": n * length, "documents": n})
    told: dict[str, float] = {}
    if mode == "forward":
        start = time.perf_counter()
        for batch in batches_of(tokens, (0, n, 0, n * length), plan.batch_tokens):
            read_rows(model, [tokens.sequence(i).tolist() for i in batch], [site], len(batch))
        told["seconds"] = time.perf_counter() - start
    else:
        store = None
        if mode == "store":
            from interp.activations.plan import cut_shards

            plan = replace(plan, shards=cut_shards(tokens, 4 * sae.cfg.d_in))
            if not (folder / "store").exists():
                capture_store(model, folder / "store", plan, tokens)
            store = open_store(folder / "store")
        stages: dict[str, float] = {}

        def tell(what: str, done: int, total: int) -> None:
            stages.setdefault(what, time.perf_counter())

        wanted = plan_index(sae, plan, tokens, IndexSettings(effects=0))
        start = time.perf_counter()
        index = build_index(Building(model, sae, folder / f"index-{mode}", wanted, tokens, store, tell))
        told["seconds"] = time.perf_counter() - start
        assert index is not None
        told["bytes"] = sum(path.stat().st_size for path in index.folder.iterdir())
        share = index.tokens_counted / (n * length)
        np.savez(folder / f"{mode}.npz", rates=index["rate"] * share, tops=index["maximum"])
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (folder / f"{mode}.json").write_text(json.dumps(told))


def compare(folder: Path, features: int) -> None:
    """Do both give the same numbers?

    SAEDashboard leaves out the first position only, we every sink; and it takes no example within five tokens of a
    sequence's ends, so that its largest activation may lie below the feature's.
    """
    ours = np.load(folder / "model.npz")
    theirs = json.loads((folder / "peer" / "result.json").read_text())
    rates, tops = np.array(theirs["rates"]), np.array(theirs["tops"])
    off = np.abs(ours["rates"][:features] - rates).max()
    gap = (ours["tops"][:features] - tops) / np.maximum(tops, 1e-6)
    print(f"shares of tokens differ by {off:.4%} at most; largest activations agree within a thousandth for "
          f"{(np.abs(gap) < 1e-3).mean():.1%} of features, theirs is below ours for the others")  # fmt: skip
    assert off < 5e-4
    assert (gap > -1e-3).mean() > 0.999
    assert (np.abs(gap) < 1e-3).mean() > 0.9


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    if settings.ours is not None:
        measure_ours(settings.ours, settings.mode)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "tokens.npy", tokens_of(settings.sequences))
        took: dict[str, dict[str, float]] = {}
        for mode in ("forward", "model", "store"):
            line = [sys.executable, __file__, "--ours", str(folder), "--mode", mode]
            subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
            took[mode] = json.loads((folder / f"{mode}.json").read_text())
        rows = [
            ("one forward to the site", f"{took['forward']['seconds']:.1f} s", "", ""),
            ("ours", *_told(took["model"])),
            ("ours, from a store", *_told(took["store"])),
        ]
        pass_ = took["model"]["seconds"] / took["forward"]["seconds"]
        tokens = settings.sequences * 128
        print(f"{tokens:,} tokens, 4,608 features; ours takes {pass_:.2f} of one forward")
        if settings.peer is not None:
            _run_peer(folder, settings)
            theirs = json.loads((folder / "peer" / "result.json").read_text())
            without = theirs["seconds"] - theirs["forward"]
            rows += [
                ("SAEDashboard", *_told(theirs)),
                ("SAEDashboard, without its forward", f"{without:.1f} s", "", ""),
            ]
            compare(folder, settings.features)
            print(f"SAEDashboard takes {theirs['seconds'] / took['model']['seconds']:.1f} times our time in all, "
                  f"{without / took['store']['seconds']:.1f} times without the forward")  # fmt: skip
        print_table(("", "time", "peak memory", "size"), rows)


def _told(one: dict[str, float]) -> tuple[str, str, str]:
    return f"{one['seconds']:.1f} s", f"{one['peak_mb']:,.0f} MB", f"{one['bytes'] / 1e6:.1f} MB"


def _run_peer(folder: Path, settings: Settings) -> None:
    from interp.model.loading.bundled import bundled_folder
    from interp.text.data import data

    assert settings.peer is not None
    runner = Path(__file__).with_name("saedashboard_runner.py")
    arguments = {"model": bundled_folder("smollm2-135m")[0], "sae": data("saes/smollm2-135m"), "out": folder / "peer",
                 "tokens": folder / "tokens.npy", "features": settings.features}  # fmt: skip
    line = [str(settings.peer), str(runner), *(str(p) for k, v in arguments.items() for p in (f"--{k}", v))]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
