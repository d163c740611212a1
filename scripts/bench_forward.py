"""How fast is the one forward, beside another version of this project and beside its own parts?

    python scripts/bench_forward.py --old /path/to/a/checkout     # git worktree add /path COMMIT

Each version runs in a process of its own; both are asked the same, in turn, and their answers are compared before any
time counts. Then, in this version alone: what edits with receipts cost at every block's output. Both are a few per
cent, so CPU seconds are counted, on one thread: clocks on a wall tell what else the machine does. (Patch sweeps beside
their forwards: bench_patching.py.)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = 5
PAIRS = 100
PROMPTS = [
    f"The {word} of the town said that the old house by the river was" for word in ("mayor", "baker", "nurse")
] * 4
TASKS = (
    "capture, one site",
    "capture, every block",
    "capture, patterns",
    "measure",
    "last_logits",
    "generate, 16 tokens",
    "score_answers",
)


def load(shape: str) -> Any:
    """The bundled model, or random weights of GPT-2's shape with its tokenizer's ids."""
    from interp import load_model

    model = load_model("smollm2-135m", "cpu")
    if shape == "bundled":
        return model
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from interp import Model

    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config(vocab_size=len(model.tokenizer))).eval()
    return Model(hf, model.tokenizer, model.provenance)


def tasks(model: Any) -> dict[str, Callable[[], Any]]:
    """What is timed, by the names of `TASKS`: each gives numbers that the other version must give too."""
    from interp.analysis.answers import score_answers
    from interp.analysis.metrics import logit_difference

    one, other = (model.tokenizer(word, add_special_tokens=False).input_ids[0] for word in (" a", " the"))
    metric = logit_difference([one] * len(PROMPTS), [other] * len(PROMPTS))
    answers = [" empty", " on fire", " a fine place", " sold last year"]
    calls: tuple[Callable[[], Any], ...] = (
        lambda: model.capture(PROMPTS, f"blocks.{model.n_layers // 2}.hook_resid_post").tensors,
        lambda: model.capture(PROMPTS, "blocks.*.hook_resid_post").tensors,
        lambda: model.capture(PROMPTS, "blocks.*.attn.hook_pattern").tensors,
        lambda: model.measure(PROMPTS, metric),
        lambda: model.last_logits(PROMPTS),
        lambda: model.generate(PROMPTS, max_new_tokens=16).ids,
        lambda: score_answers(model, PROMPTS, answers).summed,
    )
    return dict(zip(TASKS, calls, strict=True))


def flat(value: Any) -> np.ndarray:
    """The numbers of an answer in one row."""
    if isinstance(value, dict):
        value = list(value.values())[-1]
    if isinstance(value, list):
        return np.concatenate([np.asarray(row, np.float64) for row in value])
    return np.nan_to_num(value.detach().cpu().double().numpy()).ravel()


def serve(shape: str) -> None:
    """Answer the names of tasks on standard input with a time and a file of numbers, until it ends."""
    model = load(shape)
    known = tasks(model)
    for task in known.values():
        task()  # what is asked once is asked
    print("ready", flush=True)
    for line in sys.stdin:
        name, path = line.rstrip("\n").split("\t")
        start = time.process_time()
        value = known[name]()
        seconds = time.process_time() - start
        np.save(path, flat(value))
        print(seconds, flush=True)


class Version:
    """A process that runs one version of the project."""

    def __init__(self, checkout: Path, shape: str) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", shape]
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a version stopped; see its error above")
        return line

    def run(self, task: str, path: Path) -> tuple[float, np.ndarray]:
        """Seconds, and the numbers that came."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{task}\t{path}\n")
        self.process.stdin.flush()
        seconds = float(self._line())
        return seconds, np.load(path)


def compare(old: Path, shape: str, folder: Path) -> None:
    """Time every task in both versions in turn, after their numbers agree."""
    here = Path(__file__).resolve().parents[1]
    versions = {"old": Version(old, shape), "new": Version(here, shape)}
    print(f"\n{shape}: CPU seconds on one thread, least of {REPEATS}; ratio new / old")
    for task in TASKS:
        times: dict[str, list[float]] = {"old": [], "new": []}
        numbers: dict[str, np.ndarray] = {}
        for _ in range(REPEATS):
            for which, version in versions.items():
                seconds, numbers[which] = version.run(task, folder / f"{which}.npy")
                times[which].append(seconds)
        a, b = numbers["old"], numbers["new"]
        off = float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-9)) if a.shape == b.shape else float("inf")
        assert off < 1e-3, f"{task}: the versions differ by {off:.1e}"
        least = {which: min(t) for which, t in times.items()}
        ratio = least["new"] / least["old"]
        print(f"  {task:22} {least['old']:7.3f} {least['new']:7.3f}  {ratio:.2f}   (agree: {off:.0e})")


def receipts(shape: str) -> None:
    """A forward with every block's output steered, with receipts and with the same functions attached bare."""
    import torch

    from interp import steer
    from interp.model.hooks.forward import batches, forward
    from interp.model.hooks.where import Where

    model = load(shape)
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    sites = model.sites("blocks.*.hook_resid_post")
    edit = steer(direction, 1.0)
    (batch,) = batches(model.tree, model.encode(PROMPTS), len(PROMPTS), "right", sites)
    axes = model.tree.site_table.axes[sites[0]]
    where = Where(sites[0], batch.index, batch.total, batch.mask, axes)
    bare = {site: lambda value: edit(value, where) for site in sites}

    def steered() -> float:
        with model.edit(dict.fromkeys(sites, edit)):
            return seconds(lambda: forward(model.tree, batch, keep="last").logits)

    def attached() -> float:
        return seconds(lambda: forward(model.tree, batch, change=bare, keep="last").logits)

    answers: list[torch.Tensor] = []

    def seconds(run: Callable[[], torch.Tensor]) -> float:
        """Seconds of this process's CPU: another's work beside it does not count."""
        start = time.process_time()
        answers.append(run())
        return time.process_time() - start

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, a thread that waits for another counts as busy
    pairs = []
    # Whatever drifts, a clock rate or a cache, meets both of a pair; who is first changes. The first pair warms up.
    for turn in range(PAIRS + 1):
        first, second = (attached, steered) if turn % 2 else (steered, attached)
        one, other = first(), second()
        pairs.append((one, other) if first is attached else (other, one))
        assert torch.allclose(*answers, rtol=1e-4, atol=1e-2)
        answers.clear()
    torch.set_num_threads(threads)
    times = np.array(pairs[1:])
    ratios = times[:, 1] / times[:, 0] - 1
    means = np.random.default_rng(0).choice(ratios, (2000, PAIRS)).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    print(
        f"  {len(sites)} steered sites: {times[:, 0].mean():.3f} CPU seconds bare; with checks and receipts "
        f"{ratios.mean():+.1%} of a forward [{low:+.1%}, {high:+.1%}] over {PAIRS} pairs, "
        f"median {np.median(ratios):+.1%} (at most +3 %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="a checkout of the version to compare with")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--shapes", nargs="+", default=["bundled", "gpt2"], choices=["bundled", "gpt2"])
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    import tempfile

    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            if options.old:
                compare(options.old.resolve(), shape, Path(folder))
        print(f"\n{shape}: this version alone")
        receipts(shape)


if __name__ == "__main__":
    main()
