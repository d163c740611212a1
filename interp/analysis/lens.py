"""The logit lens: where an answer becomes readable. Each layer's residual stream goes through the final unembedding.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020). Early layers are not written in the unembedding's
language, so a low value there is no proof of absence; compare with the same value for wrong answers, as done here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
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
    progress: Progress = silent,
) -> Float[Tensor, "prompt layer pos"]:
    """Log-probability of each prompt's own answer token minus the mean over the other prompts' answers, in nats.

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
        for row in range(len(prompts)):
            real = acts.mask[row]
            scores = model.unembed(resid[row, real]).float()[:, ids]  # the softmax's normaliser cancels in the lead
            out[row, i, real.cpu()] = (scores[:, row] - scores[:, other[row]].mean(-1)).cpu()
        progress("reading layers", i + 1, len(chosen))
    return out
