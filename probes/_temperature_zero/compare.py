"""What two ways to compute the same thing have in common, and where greedy decoding would part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interp import Estimate, Progress, Row
from interp.stats import proportion

from . import PARTED
from .ways import CACHE, Logits, Text, Way, Written, alone


@dataclass(frozen=True)
class Pair:
    """One text computed in two ways. `parts_at`: after how many new tokens they prefer different ones; None if never.

    `largest`, `median`: of the absolute differences of logits, in nats. `margin`: the reference's lead of the best
    token where they part; `margins`: everywhere else.
    """

    same_bits: bool
    largest: float
    median: float
    parts_at: int | None
    margin: float | None
    margins: tuple[float, ...]


@dataclass(frozen=True)
class Compared:
    """All texts in one precision, by one way, against each text alone."""

    dtype: str
    way: str
    pairs: tuple[Pair, ...]

    @property
    def parted(self) -> list[bool]:
        return [pair.parts_at is not None for pair in self.pairs]

    def row(self) -> Row:
        at = [pair.parts_at for pair in self.pairs if pair.parts_at is not None]
        share = proportion(self.parted, unit=PARTED, over="prompt")
        lead = [pair.margin for pair in self.pairs if pair.margin is not None]
        return {
            "precision": self.dtype,
            "way": self.way,
            "texts that part (share of prompts)": share.mean,
            "low": share.low,
            "high": share.high,
            "same bits (share of prompts)": float(np.mean([pair.same_bits for pair in self.pairs])),
            "largest difference of a logit (nats)": max(pair.largest for pair in self.pairs),
            "median difference of a logit (nats)": float(np.median([pair.median for pair in self.pairs])),
            "first parted after (tokens)": min(at) + 1 if at else None,
            "lead of the best token there (nats)": float(np.median(lead)) if lead else None,
        }


def compare_ways(dtype: str, written: Written, hf: Any, ways: Iterable[Way], progress: Progress) -> list[Compared]:
    """Read what was written again in every way, and compare with each text alone."""
    ways = list(ways)
    compared = [Compared(dtype, CACHE, _pairs(written.texts, written.whole, written.step_by_step))]
    for i, way in enumerate(ways):
        compared.append(Compared(dtype, way.name, _pairs(written.texts, written.whole, way.run(hf, written.texts))))
        progress("reading again", i + 1, len(ways))
    return compared


def compare_precisions(dtype: str, written: Written, hf: Any) -> Compared:
    """The model in another precision, on every second text that the reference wrote."""
    texts = written.texts[::2]
    return Compared(dtype, "another precision than fp32", _pairs(texts, written.whole[::2], alone(hf, texts)))


def _pairs(texts: Sequence[Text], reference: Iterable[Logits], other: Iterable[Logits]) -> tuple[Pair, ...]:
    return tuple(compare(text, a, b) for text, a, b in zip(texts, reference, other, strict=True))


def compare(text: Text, reference: Logits, other: Logits) -> Pair:
    """Two computations of one text's logits, as long as it is what the reference would write itself."""
    best = reference.argmax(-1)
    written = torch.tensor(text.ids[text.start :])
    strays = (best != written).nonzero().flatten()
    last = int(strays[0]) + 1 if len(strays) else len(best)
    expected, seen = reference[:last].double(), other[:last].double()
    parts = (best[:last] != other[:last].argmax(-1)).nonzero().flatten()
    top = expected.topk(2, dim=-1).values
    lead = (top[:, 0] - top[:, 1]).tolist()
    at = int(parts[0]) if len(parts) else None
    off = (expected - seen).abs()
    return Pair(
        bool(torch.equal(reference[:last], other[:last])),
        float(off.max()),
        float(off.median()),
        at,
        lead[at] if at is not None else None,
        tuple(v for i, v in enumerate(lead[: last if at is None else at]) if i != at),
    )


def share(compared: Sequence[Compared], test: Callable[[Pair], bool]) -> Estimate:
    """Share of prompts for which `test` holds in any of the ways."""
    return proportion(in_any(compared, test), unit=PARTED, over="prompt")


def in_any(compared: Sequence[Compared], test: Callable[[Pair], bool]) -> list[bool]:
    """Prompt by prompt: does `test` hold in any of the ways?"""
    return [any(map(test, pairs)) for pairs in zip(*(one.pairs for one in compared), strict=True)]


def parts(pair: Pair) -> bool:
    """Would greedy decoding part?"""
    return pair.parts_at is not None


def leads(compared: Sequence[Compared]) -> tuple[list[float], list[float]]:
    """The best token's median lead over the second where a prompt's text parts, and elsewhere in the same text.

    For the prompts whose text parts in any of the ways.
    """
    there, elsewhere = [], []
    for pairs in zip(*(one.pairs for one in compared), strict=True):
        margins = [pair.margin for pair in pairs if pair.margin is not None]
        others = [margin for pair in pairs for margin in pair.margins]
        if margins and others:
            there.append(float(np.median(margins)))
            elsewhere.append(float(np.median(others)))
    return there, elsewhere
