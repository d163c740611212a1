"""A small store for the tests: what is captured, how, and what lies on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interp import Model
from interp.activations.capture import capture_store
from interp.activations.plan import Plan, plan_capture
from interp.activations.store import Store
from interp.activations.token_table import Tokens

TEXTS = [f"{name} walked to {place} and " + "saw it all again, " * (i % 5) for i, (name, place) in enumerate(
    (n, p) for n in ("Mary", "John", "Ada", "Kim") for p in ("Rome", "Paris", "the sea"))]  # fmt: skip
SITES = ["blocks.*.hook_resid_post", "blocks.1.hook_mlp_out"]
MIDDLE = "blocks.0.hook_resid_post"
SMALL = 20_000  # bytes a shard: several of them

Captured = tuple[Store, Plan, Tokens]


def captured(model: Model, folder: Path, sites: Any = SITES, shard_bytes: int = SMALL, **more: Any) -> Captured:
    plan, tokens = plan_capture(model, TEXTS, sites, shard_bytes=shard_bytes, **more)
    return capture_store(model, folder, plan, tokens), plan, tokens


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
