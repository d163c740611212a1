"""Sample the bundled corpus from the bundled model itself: `python scripts/sample_corpus.py --out data/corpus/x.jsonl`.

A model's own samples are text it finds likely, carry no licence of others, and need no network. Ancestral sampling
(temperature 1, no top-k, no top-p) after `<|endoftext|>`, in fp32, one torch seed a batch, so that a run can be cut
short and the documents it wrote are the same. Documents end at an end-of-text token or after `--length` tokens.
Dropped: fewer than 16 tokens, and text with a broken character (a multi-byte one cut at the end).
About 350 tokens a second on two cores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from interp import Model, load_model


@dataclass(frozen=True)
class Settings:
    """Sampling settings."""

    out: Path
    """JSON lines file to write: one {"text": …} a document."""
    model: str = "smollm2-135m"
    """Model to sample from."""
    documents: int = 1600
    """How many to sample, dropped ones included."""
    batch: int = 160
    """Documents sampled at once; part of what decides the text."""
    length: int = 128
    """Longest document, in tokens."""
    seed: int = 0
    """First seed."""


def main(settings: Settings) -> None:
    model = load_model(settings.model)
    lines = []
    for first in range(0, settings.documents, settings.batch):
        ids = sample(model, settings.batch, settings.length, settings.seed * 1_000_003 + first)
        lines += [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents(model, ids)]
        print(f"{first + settings.batch} of {settings.documents} sampled, {len(lines)} kept", flush=True)
    settings.out.write_text("".join(lines), encoding="utf-8")


def sample(model: Model, batch: int, length: int, seed: int) -> torch.Tensor:
    """Token ids [document, length + 1], the start token first."""
    torch.manual_seed(seed)
    start, *_ = stops = stop_ids(model)
    prompt = torch.full((batch, 1), start)
    with torch.inference_mode():
        return model.hf.generate(  # type: ignore[operator]
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=length,
            pad_token_id=stops[1],
            eos_token_id=stops,
        )


def documents(model: Model, ids: torch.Tensor) -> Iterator[str]:
    """The texts worth keeping."""
    stops = set(stop_ids(model))
    for row in ids[:, 1:].tolist():
        end = next((i for i, token in enumerate(row) if token in stops), len(row))
        text = str(model.tokenizer.decode(row[:end]))
        if end >= 16 and "\ufffd" not in text:
            yield text


def stop_ids(model: Model) -> list[int]:
    """The tokens that end a document; the first also starts one."""
    vocabulary = model.tokenizer.get_vocab()
    return [vocabulary[t] for t in ("<|endoftext|>", "<|im_end|>")]


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
