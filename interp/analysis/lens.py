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
        for row in range(0 if priors_out else len(prompts)):
            real = acts.mask[row]
            scores = model.unembed(resid[row, real]).float()[:, ids]  # the softmax's normaliser cancels in the lead
            out[row, i, real.cpu()] = (scores[:, row] - scores[:, other[row]].mean(-1)).cpu()
        if priors_out:
            out[:, i] = _less_priors(model, resid, acts.mask, ids)
        progress("reading layers", i + 1, len(chosen))
    return out


def _less_priors(
    model: Model,
    resid: Float[Tensor, "prompt pos d_model"],
    mask: Bool[Tensor, "prompt pos"],
    ids: Int[Tensor, " prompt"],
) -> Float[Tensor, "prompt pos"]:
    """Each prompt's own answer above the mean of all, less the same answer's lead in prompts with another one."""
    kinds, own = ids.unique(return_inverse=True)
    scores = torch.full((*mask.shape, len(kinds)), float("nan"))
    for row in range(len(mask)):
        scores[row, mask[row].cpu()] = model.unembed(resid[row, mask[row]]).float()[:, kinds].cpu()
    return lead_without_priors(scores, own.cpu())


def lead_without_priors(
    scores: Float[Tensor, "prompt pos answer"], own: Int[Tensor, " prompt"]
) -> Float[Tensor, "prompt pos"]:
    """Own answer's score above the mean of all, less the same answer's in prompts with another one; NaN passed over."""
    above = scores - scores.mean(-1, keepdim=True)
    lead = [above[row, :, kind] - above[own != kind, :, kind].nanmean(0) for row, kind in enumerate(own)]
    return torch.stack(lead)
