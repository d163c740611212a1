"""Short trainings of every architecture on a small store, stopped and resumed, and what they leave behind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp.saes.training.checkpoint import METRICS, folder_of
from interp.saes.training.plan import Training
from interp.saes.training.trainer import train

LAST, MLP = "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"
STEPS = Training(steps=24, batch=64, lr=3e-3, dead_after=5)
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("topk", {"k": 4}),
    ("batchtopk", {"k": 4}),
    ("matryoshka_batchtopk", {"k": 4, "matryoshka_widths": (16, 64)}),
    ("jumprelu", {"l0_coefficient": 0.1}),
    ("standard", {"l1_coefficient": 0.2}),
    ("gated", {"l1_coefficient": 0.2}),
]


def weights(folder: Path) -> bytes:
    return (folder / "sae_weights.safetensors").read_bytes()


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "rows_per_second"} for line in lines]


class StopAt:
    """Asks for an end after the steps given, one of them a call of `train`."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def stopped_and_resumed(plans: Any, source: Any, out: Path, training: Training, stops: Sequence[int]) -> list[Path]:
    """Train with a stop after each of `stops` steps, from a new source every time, as in a new process."""
    for stop in stops:
        assert train(plans, dataclasses.replace(source, memory={}), out, training, stop=StopAt(stop)) is None
        assert folder_of(out).is_dir()
        assert not out.exists()
    written = train(plans, dataclasses.replace(source, memory={}), out, training)
    assert written is not None
    assert not folder_of(out).exists()
    return written
