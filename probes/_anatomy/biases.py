"""What zeroing biases does to the loss, beside moving them as far in a random direction."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp import Lab, Model, SmallGPT2, split_corpus, train_small_gpt2
from interp.analysis import biases_of

WORDS, LENGTH, STEPS = 400, 14, 300
AT_ONCE = 1024  # tokens whose logits are in memory together


def small_gpt2(lab: Lab) -> tuple[Model, list[list[int]]]:
    """A GPT-2 of two blocks that reads the bundled sample's commonest words, and sentences that it has not read."""
    training, held_out = split_corpus()
    counts = Counter(word for text in training for word in text.lower().split())
    known = {word for word, _ in counts.most_common(WORDS)}

    def cut(documents: Sequence[str], most: int) -> list[str]:
        out = []
        for text in documents:
            words = [word if word in known else "~" for word in text.lower().split()]
            out += [" ".join(words[i : i + LENGTH]) for i in range(0, len(words) - LENGTH, LENGTH)]
        return out[:most]

    size = SmallGPT2(d_model=64, steps=STEPS)
    model = train_small_gpt2(cut(training, 4000), size, seed=lab.seed, progress=lab.tell("training a small GPT-2"))
    return model, model.encode(cut(held_out, 160))


@torch.no_grad()
def losses(hf: Any, rows: Sequence[Sequence[int]]) -> Float[Tensor, " sentence"]:
    """Mean surprise of each sentence's tokens but the first, in nats; sentences of one length go side by side."""
    out = torch.empty(len(rows), dtype=torch.float64)
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(i)
    for length, alike in by_length.items():
        for places in torch.tensor(alike).split(max(1, AT_ONCE // length)):
            ids = torch.tensor([list(rows[i]) for i in places.tolist()], device=hf.device)
            logits = hf(ids, use_cache=False).logits[:, :-1].float()
            surprise = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
            out[places] = surprise.mean(1).double().cpu()
    return out


def copied(model: Model) -> Any:
    """A copy to change: the model itself is left alone."""
    return copy.deepcopy(model.hf)


@contextmanager
def biases_at(hf: Any, parts: Sequence[str], to: str, seed: int = 0) -> Iterator[None]:
    """Biases of these parts at zero, or `to` "random": moved as far in a random direction; then as they were."""
    chosen = [p for part, some in biases_of(hf).items() if part in parts for p in some]
    before = [p.detach().clone() for p in chosen]
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for p in chosen:
                if to == "zero":
                    p.zero_()
                else:
                    noise = torch.randn(p.shape, generator=generator).to(p)
                    p += noise * (p.norm() / noise.norm().clamp_min(1e-12))
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(chosen, before, strict=True):
                p.copy_(value)
