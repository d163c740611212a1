"""Ways to compute the same logits: alone or in company, padded, from the cache, by another kernel, with other threads.

All ways read the same text, token by token what greedy decoding wrote. Where two ways first prefer different tokens,
there greedy decoding would part: until then both have read the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp import Model, UserError

MATES = 3
PROMPTS = (
    "The weather in the mountains changed quickly, and by noon",
    "A good teacher is somebody who",
    "The history of the bicycle begins with",
    "In the middle of the night, the phone rang and",
    "To bake bread at home you need",
    "The first thing that she noticed about the old house was",
    "Water boils at a lower temperature on a mountain because",
    "The city council met on Tuesday to discuss",
    "My grandmother used to say that",
    "The three most common causes of traffic accidents are",
    "Once there was a small fox who",
    "The difference between a lake and a sea is",
    "Plants turn sunlight into",
    "The moon looks larger near the horizon because",
    "An old map of the island shows",
    "He opened the letter slowly and read",
)
ASKED = (
    "Explain in one sentence why the sky is blue.",
    "Name three animals that live in water.",
    "Write the first line of a story about a lighthouse.",
    "What should I pack for a trip to the mountains?",
    "Give me a tip for sleeping better.",
    "Translate 'good morning' into French.",
    "Why do leaves change colour in autumn?",
    "Suggest a name for a small bookshop.",
)
Logits = Float[Tensor, "pos d_vocab"]


@dataclass(frozen=True)
class Text:
    """A prompt's token ids with what greedy decoding wrote behind it, from `start` on."""

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Way:
    """A way to compute. `run` gives each text's logits where something was written."""

    name: str
    run: Callable[[Any, Sequence[Text]], Iterator[Logits]]


def cast(model: Model, dtype: torch.dtype) -> Any:
    """A copy of the plain model in another precision; the model itself is left alone."""
    hf: Any = copy.deepcopy(model.hf)  # transformers wraps `to` so that no type checker knows it
    return hf.to(dtype=dtype).eval()


@dataclass(frozen=True)
class Written:
    """Texts that greedy decoding wrote, with the logits that it took each token from, and those of each text whole."""

    texts: list[Text]
    step_by_step: list[Logits]
    whole: list[Logits]


def write_texts(model: Model, hf: Any, prompts: Sequence[str], n: int) -> Written:
    """What `hf` writes behind each prompt by itself, `n` tokens, taking the likeliest.

    Raises UserError where the context leaves room for fewer than four.
    """
    rows = model.encode(list(prompts))
    context = getattr(hf.config, "max_position_embeddings", None) or 10**9
    room = min(n, context - max(map(len, rows)))
    if room < 4:
        raise UserError(f"this model reads {context} tokens; expected room for 4 new ones behind {max(map(len, rows))}")
    texts, logits = [], []
    for row in rows:
        ids, seen = list(row), []
        with torch.no_grad():
            out = hf(torch.tensor([row], device=hf.device), use_cache=True)
            for _ in range(room):
                seen.append(out.logits[0, -1].cpu())
                ids.append(int(seen[-1].argmax()))
                new = torch.tensor([ids[-1:]], device=hf.device)
                out = hf(new, past_key_values=out.past_key_values, use_cache=True)
        texts.append(Text(tuple(ids), len(row)))
        logits.append(torch.stack(seen))
    return Written(texts, logits, list(alone(hf, texts)))


def _read(hf: Any, ids: Tensor, text: Text, first: int = 0, **more: Any) -> Logits:
    """Logits of row 0 before each token that was written; `first`: the column where the text begins."""
    kept = torch.arange(first + text.start - 1, first + len(text.ids) - 1, device=hf.device)
    with torch.no_grad():  # a vocabulary is wide: only the columns that are looked at
        return hf(ids.to(hf.device), use_cache=False, logits_to_keep=kept, **more).logits[0].cpu()


def alone(hf: Any, texts: Sequence[Text]) -> Iterator[Logits]:
    """Each text by itself, whole: what the others are compared with."""
    for text in texts:
        yield _read(hf, torch.tensor([text.ids]), text)


def with_mates(hf: Any, texts: Sequence[Text]) -> Iterator[Logits]:
    """In a batch with three others, cut or repeated to its length so that nothing is padded."""
    for i, text in enumerate(texts):
        rows = [text.ids]
        for k in range(MATES):
            other = texts[(i + 1 + k) % len(texts)].ids
            rows.append(tuple((other * (1 + len(text.ids) // len(other)))[: len(text.ids)]))
        yield _read(hf, torch.tensor(rows), text)


def padded(hf: Any, texts: Sequence[Text], left: bool = False) -> Iterator[Logits]:
    """Beside a text that is longer by eight, with a mask; on the left the positions are told as well."""
    for text in texts:
        n, pad = len(text.ids), 8
        row = [0] * pad + list(text.ids) if left else list(text.ids) + [0] * pad
        mask = torch.ones(2, n + pad, dtype=torch.long)
        mask[0, : pad if left else 0] = 0
        mask[0, n + (pad if left else 0) :] = 0
        other = (list(text.ids) * 2)[: n + pad] if n >= pad else [*text.ids, *text.ids * pad][: n + pad]
        more = {"attention_mask": mask.to(hf.device)}
        if left:
            more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0).to(hf.device)
        yield _read(hf, torch.tensor([row, other]), text, pad if left else 0, **more)


def padded_left(hf: Any, texts: Sequence[Text]) -> Iterator[Logits]:
    """See `padded`."""
    return padded(hf, texts, left=True)


def by_other_kernel(hf: Any, texts: Sequence[Text]) -> Iterator[Logits]:
    """Attention written out (eager) where it was fused (sdpa), and the other way round."""
    before = hf.config._attn_implementation
    hf.set_attn_implementation("eager" if before != "eager" else "sdpa")
    try:
        yield from alone(hf, texts)
    finally:
        hf.set_attn_implementation(before)


def with_other_threads(hf: Any, texts: Sequence[Text]) -> Iterator[Logits]:
    """One thread where there were several, and two where there was one."""
    with threads(1 if torch.get_num_threads() > 1 else 2):
        yield from alone(hf, texts)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Compute with `n` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


REPEAT = Way("the same call again", alone)
WITH_MATES = Way("three batch mates", with_mates)
KERNEL = Way("another attention kernel", by_other_kernel)
LEFT = Way("padding on the left", padded_left)
CACHE = "cache, token by token"
WAYS = (
    REPEAT,
    WITH_MATES,
    Way("padding on the right", padded),
    LEFT,
    KERNEL,
    Way("another number of threads", with_other_threads),
)


def ways_for(model: Model) -> list[Way]:
    """Those that this model can go."""
    left_out = set()
    if not model.pads("left"):
        left_out.add(LEFT.name)
    if not getattr(model.hf, "_supports_sdpa", False):
        left_out.add(KERNEL.name)
    return [way for way in WAYS if way.name not in left_out]
