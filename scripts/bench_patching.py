"""Patching every layer and position, and attribution patching, against the forwards that they are made of.

    python scripts/bench_patching.py [--model smollm2-135m] [--repeats 3]

The limit of a sweep is its forwards: the same rows, in the same batches, through the same hooked model without an edit.
That of attribution patching is counted in plain forwards of its prompts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from interp import load_model
from interp.analysis.metrics import logit_difference
from interp.analysis.patching import attribution_patch, patch_sweep
from interp.cli.terminal import print_table

SOURCE = "Here is a fact that everybody learns at school. The capital of France is"
CORRUPT = "Here is a fact that everybody learns at school. The capital of Italy is"
SITES = "blocks.*.hook_resid_pre"


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    model = load_model(options.model)
    source, corrupt = model.encode([SOURCE]), model.encode([CORRUPT])
    right, wrong = (model.tokenizer(word).input_ids[0] for word in (" Paris", " Rome"))
    metric, length = logit_difference([right], [wrong]), len(source[0])
    rows = logit_difference([right] * length, [wrong] * length)

    def forwards() -> None:
        for _ in range(model.n_layers):
            model.measure(corrupt * length, rows, batch_size=length)

    def sweep() -> object:
        return patch_sweep(model, source, corrupt, metric, SITES, batch_size=length)

    def estimate() -> object:
        return attribution_patch(model, source, corrupt, metric, SITES)

    def forward() -> None:
        model.measure(corrupt, metric)

    contenders = {"forwards alone": forwards, "patch sweep": sweep, "one forward": forward, "attribution": estimate}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(options.repeats + 1):
        for name, run in contenders.items():
            taken = seconds(run)
            if turn:  # the first turn warms up
                times[name].append(taken)
    median = {name: statistics.median(found) for name, found in times.items()}
    print(f"torch {torch.__version__}, {model.device}, {torch.get_num_threads()} threads\n")
    title = f"{options.model}, {model.n_layers} layers x {length} positions"
    rows_shown = [
        (name, f"{median[name]:.3f}", f"{median[name] / median[limit]:.2f}", limit)
        for name, limit in (
            ("forwards alone", "forwards alone"),
            ("patch sweep", "forwards alone"),
            ("one forward", "one forward"),
            ("attribution", "one forward"),
        )
    ]
    print_table((title, "seconds", "ratio", "to"), rows_shown)


if __name__ == "__main__":
    main()
