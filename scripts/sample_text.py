"""Sample millions of tokens of text from a model: `python scripts/sample_text.py --out text --documents 30000`.

The text that the shipped SAE is trained on. As `sample_corpus.py` (ancestral sampling after the start token,
temperature 1, documents of up to `--length` tokens), three times as fast: bfloat16, a key-value cache of fixed size,
and tokens drawn by inverting the cumulative distribution. One file a batch, written whole: stopped and run again it
goes on, and a batch holds the same text whatever was stopped, on the same kind of processor.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from sample_corpus import documents, stop_ids
from transformers import StaticCache

from interp import Model, load_model


@dataclass(frozen=True)
class Settings:
    """Sampling settings."""

    out: Path
    """Folder for the files, one a batch."""
    model: str = "smollm2-135m"
    """Model to sample from."""
    documents: int = 30_000
    """How many to sample, dropped ones included."""
    batch: int = 256
    """Documents sampled at once; part of what decides the text."""
    length: int = 128
    """Longest document, in tokens."""
    seed: int = 0
    """First seed."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """What the model computes in."""


def main(settings: Settings) -> None:
    model = load_model(settings.model)
    model.hf.to({"fp32": torch.float32, "bf16": torch.bfloat16}[settings.dtype])  # type: ignore[call-overload]
    settings.out.mkdir(parents=True, exist_ok=True)
    for index in range(-(-settings.documents // settings.batch)):
        file = settings.out / f"part-{index:05d}.jsonl"
        if file.exists():
            continue
        began = time.monotonic()
        ids = sample(model, settings.batch, settings.length, settings.seed * 1_000_003 + index)
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents(model, ids)]
        temporary = file.with_suffix(".tmp")
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(file)
        speed = settings.batch * settings.length / (time.monotonic() - began)
        print(f"{file.name}: {len(lines)} documents, {speed:.0f} tokens a second", flush=True)


@torch.inference_mode()
def sample(model: Model, batch: int, length: int, seed: int) -> torch.Tensor:
    """Token ids [document, length + 1], the start token first."""
    generator = torch.Generator().manual_seed(seed)
    stops = torch.tensor(stop_ids(model))
    tokens = torch.full((batch, 1), int(stops[0]))
    cache = StaticCache(config=model.hf.config, max_cache_len=length + 1)
    going = torch.ones(batch, dtype=torch.bool)
    for place in range(length):
        position = torch.full((batch, 1), place)
        out = model.hf(tokens[:, -1:], past_key_values=cache, position_ids=position, use_cache=True)  # type: ignore[operator]
        reached = out.logits[:, -1].float().softmax(-1).cumsum(-1)
        drawn = torch.rand(batch, 1, generator=generator) * reached[:, -1:]
        token = torch.searchsorted(reached, drawn).clamp(max=reached.shape[1] - 1)
        tokens = torch.cat([tokens, torch.where(going[:, None], token, stops[0])], dim=1)
        going &= ~torch.isin(token[:, 0], stops)
        if not bool(going.any()):
            break
    return tokens


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
