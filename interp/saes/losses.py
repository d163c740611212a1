"""A model's loss on documents under edits at one place of its residual stream: an SAE, or a mean, instead of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from interp.activations.rows import Rows
from interp.model.hooks.editing import Edit
from interp.model.hooks.forward import batches, forward
from interp.model.hooks.late import Late, starts_late
from interp.model.hooks.sites import layer_of
from interp.model.hooks.tokens import Tokens
from interp.model.model import Model
from interp.progress import Progress

LOGITS_AT_ONCE = 1 << 24  # numbers: 64 MB in fp32; a batch of 16 x 128 x 49,152 would take 400


class Passes:
    """Adds up the progress of equal passes over the same tokens."""

    def __init__(self, progress: Progress, n: int) -> None:
        self.progress, self.n = progress, n

    def count(self, _: str, done: int, total: int) -> None:
        """The `Progress` of the first pass."""
        self.progress("evaluating the SAE", done, self.n * total)

    def count_others(self, done: int, total: int) -> None:
        """That of the others, which are made side by side."""
        self.progress("evaluating the SAE", total + (self.n - 1) * done, self.n * total)


def losses_under(
    model: Model, texts: list[list[int]], rows: Rows, edits: Sequence[Edit | None], passes: Passes
) -> list[NDArray[np.float64]]:
    """Summed next-token cross-entropy per document in nats, over predictions from position 1 on, under each edit.

    The rows are the residual stream at some place: blocks before it are not run again, where that changes nothing.
    """
    longest = max(map(len, texts))
    size = max(1, LOGITS_AT_ONCE // (longest * int(model.config.vocab_size)))
    streams = _streams(model, rows, texts)
    out = [np.zeros(len(texts)) for _ in edits]
    done, total = 0, sum(map(len, texts))
    for start in range(0, len(texts), size):
        for batch in batches(model.tree, texts[start : start + size], size, "right"):
            for sums, edit in zip(out, edits, strict=True):
                with model.edit({rows.site: edit}) if edit else nullcontext():
                    logits = forward(model.tree, batch, late=streams(start, batch)).logits.float()
                for i, row in zip(batch.index.tolist(), logits, strict=True):
                    target = torch.tensor(texts[start + i][2:], dtype=torch.long, device=row.device)
                    scores = row[1 : 1 + len(target)]
                    sums[start + i] = float(torch.nn.functional.cross_entropy(scores, target, reduction="sum"))
        done += sum(map(len, texts[start : start + size]))
        passes.count_others(done, total)
    return out


def _streams(model: Model, rows: Rows, texts: list[list[int]]) -> Callable[[int, Tokens], Late | None]:
    """What gives a batch of documents, from number `start` on, the stream that was captured of them; else None."""
    blocks = next((n for n in range(model.n_layers) if model.residual(n) == rows.site), None)
    if rows.site.endswith("hook_resid_post"):
        blocks = (layer_of(rows.site) or 0) + 1
    if blocks is None or model.is_edited or not starts_late(model.tree, blocks):
        return lambda start, batch: None
    ends = np.cumsum([0, *map(len, texts)])

    def late(start: int, batch: Tokens) -> Late:
        stream = torch.zeros(*batch.ids.shape, rows.values.shape[1])
        for row, i in enumerate(batch.index.tolist()):
            of_text = rows.values[ends[start + i] : ends[start + i + 1]]
            stream[row, : len(of_text)] = of_text
        return Late(blocks, stream)

    return late
