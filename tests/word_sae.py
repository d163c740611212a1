"""A small GPT-2 of a few words, and an SAE of it: what stands behind the `word_*` fixtures, and helpers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from interp.model.model import Model
from interp.model.training.small import SmallGPT2
from interp.saes.training.plan import Training, plan_sae

SITE = "blocks.0.hook_resid_post"
SIZE = SmallGPT2(d_model=32, n_heads=2, steps=60)
PLAN = plan_sae(SITE, "topk", 64, k=4)
TRAINING = Training(steps=100, batch=128, lr=3e-3, dead_after=100)
WORDS = product(
    ["ann", "bob", "cat", "dog", "eve", "fox"], ["likes", "sees", "eats"], ["red", "big", "old"], ["hat", "sun"]
)
SENTENCES = [
    f"{a} {verb} the {c} {b}" + f" and the {a} sleeps" * (i // 2 % 2) for i, (a, verb, c, b) in enumerate(WORDS)
]


def with_provenance(model: Model, **changes: Any) -> Model:
    """The same model under another name, hash or policy."""
    return Model(model.hf, model.tokenizer, dataclasses.replace(model.provenance, **changes))


def change_cfg(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A function that applies `change` to the cfg.json of an SAE's folder."""

    def damage(folder: Path) -> None:
        cfg = json.loads((folder / "cfg.json").read_text())
        change(cfg)
        (folder / "cfg.json").write_text(json.dumps(cfg))

    return damage
