"""Completion scores: how likely each prompt's own completion is. One forward over both together, in batches.

`interp.analysis.answers` scores every answer after every prompt; here each prompt has one, and it may be long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.model.hooks.forward import batches, forward
from interp.model.hooks.shown import Shown
from interp.model.hooks.tree import looks_once
from interp.model.model import Model
from interp.model.training.finetune import IGNORED, Example, encode_pairs, pad_pairs


@dataclass(frozen=True, repr=False)
class CompletionScores(Shown):
    """`summed`: log-probability of the whole completion, in nats.

    `agrees` [prompt, token]: is this token of the completion the likeliest, given those before it? True behind its end.
    """

    summed: Float[Tensor, " prompt"]
    agrees: Bool[Tensor, "prompt token"]
    lengths: Int[Tensor, " prompt"]

    @property
    def greedy(self) -> Bool[Tensor, " prompt"]:
        """Would greedy decoding write the whole completion?"""
        return self.agrees.all(-1)


@looks_once
@torch.no_grad()
def score_completions(model: Model, examples: Sequence[Example], *, batch_size: int = 32) -> CompletionScores:
    """Score every (prompt, completion) by itself.

    Edits see the prompt, then each token of the completion. Raises UserError where `encode_pairs` does.
    """
    pairs = encode_pairs(model, examples)
    lengths = torch.tensor([len(ids) - start for ids, start in pairs])
    summed, agrees = torch.empty(len(pairs)), torch.ones(len(pairs), int(lengths.max()), dtype=torch.bool)
    alike = (lambda i: pairs[i][1]) if model.is_edited else None  # edits see the prompts of a batch in one turn
    for batch in batches(model.tree, [ids for ids, _ in pairs], batch_size, "right", alike=alike):
        chosen = batch.index.tolist()
        _, labels = pad_pairs([pairs[i] for i in chosen], model.device)
        real = labels != IGNORED
        start = pairs[chosen[0]][1]
        turns = (start, *[1] * (batch.ids.shape[1] - start)) if model.is_edited else ()
        logits = forward(model.tree, replace(batch, turns=turns), keep=labels.shape[1] + 1).logits[:, :-1].float()
        picked = logits.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1) - logits.logsumexp(-1)
        summed[chosen] = (picked * real).sum(-1).cpu()
        best = (logits.argmax(-1) == labels).cpu()
        for i, row, own in zip(chosen, best, real.cpu(), strict=True):
            agrees[i, : int(lengths[i])] = row[own]
    return CompletionScores(summed, agrees, lengths)
