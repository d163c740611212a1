"""The logit lens: where an answer becomes readable. Each layer's residual stream goes through the final unembedding.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020). Early layers are not written in the unembedding's
language, so a low value there is no proof of absence; compare with the same value for wrong answers, as done here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.tree import looks_once
from interp.model.model import Model
from interp.progress import Progress, silent

AT_ONCE = 256  # places unembedded in one product: each gives a number for every word of the vocabulary


@looks_once
def answer_lead(
    model: Model,
    prompts: Sequence[str],
    answer_ids: Sequence[int],
    *,
    layers: Sequence[int] | None = None,
    priors_out: bool = False,
    progress: Progress = silent,
) -> Float[Tensor, "prompt layer pos"]:
    """Log-probability of each prompt's own answer token minus the mean over the other prompts' answers, in nats.

    `priors_out`: less what the same answer leads by at the same place of the other prompts, so that an answer which is
    likely everywhere leads nowhere; a bonus of b on every own answer gives b. For prompts whose places are alike.

    `answer_ids` [prompt]: first token of each answer; they must not all be equal. NaN on padding. 0 means that the
    layer prefers the own answer no more than the others. Layer l is the residual stream after l blocks (0: embedding).
    Raises UserError where all answers start with the same token, and for a layer that is not there.
    """
    if len(set(answer_ids)) < 2:
        raise UserError("all answers start with the same token; expected at least two that differ")
    chosen = list(range(model.n_layers + 1)) if layers is None else list(layers)
    acts = model.capture(prompts, [model.residual(layer) for layer in chosen])
    ids = torch.tensor(list(answer_ids), device=model.device)
    other = ids[None, :] != ids[:, None]  # [prompt, answer]: answers that are wrong for the prompt
    out = torch.full((len(prompts), len(chosen), acts.mask.shape[1]), float("nan"))
    for i, layer in enumerate(chosen):
        resid = acts[model.residual(layer)]
        if priors_out:
            kinds, own = ids.unique(return_inverse=True)
            out[:, i] = lead_without_priors(_scores(model, resid, acts.mask, kinds), own.cpu())
        else:
            scores = _scores(model, resid, acts.mask, ids)
            for row in range(len(prompts)):
                out[row, i] = scores[row, :, row] - scores[row][:, other[row].cpu()].mean(-1)
        progress("reading layers", i + 1, len(chosen))
    return out


def _scores(
    model: Model,
    resid: Float[Tensor, "prompt pos d_model"],
    mask: Bool[Tensor, "prompt pos"],
    ids: Int[Tensor, " answer"],
) -> Float[Tensor, "prompt pos answer"]:
    """Logits of some words at every place, NaN on padding; a softmax's normaliser cancels in every lead."""
    scores = torch.full((*mask.shape, len(ids)), float("nan"))
    parts = [model.unembed(places).float()[:, ids].cpu() for places in resid[mask].split(AT_ONCE)]
    scores[mask.cpu()] = torch.cat(parts)
    return scores


def lead_without_priors(
    scores: Float[Tensor, "prompt pos answer"], own: Int[Tensor, " prompt"]
) -> Float[Tensor, "prompt pos"]:
    """Own answer's score above the mean of all, less the same answer's in prompts with another one; NaN passed over."""
    above = scores - scores.mean(-1, keepdim=True)
    lead = [above[row, :, kind] - above[own != kind, :, kind].nanmean(0) for row, kind in enumerate(own)]
    return torch.stack(lead)
