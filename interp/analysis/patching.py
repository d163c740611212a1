"""Which activation carries the answer? Put one activation of a clean run into a corrupt run and see what moves.

Causal tracing after Meng et al. (2202.05262), with another prompt of the same layout as the corruption (Vig et al.
2004.12265): the prompts differ in the item only, so the two runs stay on the data the model knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analysis.lens import residual_site
from interp.errors import UserError
from interp.model.edits import patch
from interp.model.model import Model


@dataclass(frozen=True)
class PatchingResult:
    """`effect` [pair, layer, pos]: how far patching that place moves the corrupt run towards the target, in nats.

    Measured as the target's logit above the mean logit of the reference answers, less the same in the unpatched corrupt
    run. `total` [pair]: the same for the source run itself, which is what patching everything would give.
    """

    effect: Float[Tensor, "pair layer pos"]
    total: Float[Tensor, " pair"]

    @property
    def share(self) -> Float[Tensor, "pair layer pos"]:
        """Effect as a share of the pair's total."""
        return self.effect / self.total[:, None, None]


def patch_residual(
    model: Model,
    source: Sequence[str],
    corrupt: Sequence[str],
    targets: Sequence[int],
    references: Sequence[Sequence[int]],
    *,
    layers: Sequence[int],
    positions: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> PatchingResult:
    """Patch the residual stream of `source` runs into `corrupt` runs, at each of `layers` and `positions`.

    Layer l is the residual stream after l blocks (0: the embedding).
    `source` holds the clean prompts, or unrelated ones as a control. `targets` [pair] and `references` [pair][some]
    are answer tokens; leave the corrupt answer out of the references, or erasing it counts as an effect. Negative
    positions count from the end. All pairs run in one batch: a sweep costs layers x positions forwards.
    Raises UserError when a source and a corrupt prompt differ in length.
    """
    source_ids, corrupt_ids = model.encode(source), model.encode(corrupt)
    for a, b in zip(source_ids, corrupt_ids, strict=True):
        if len(a) != len(b):
            raise UserError(
                f"patching needs prompts of one length: {model.tokenizer.decode(a)!r} has {len(a)} tokens, "
                f"{model.tokenizer.decode(b)!r} has {len(b)}"
            )
    target, reference = torch.tensor(list(targets)), torch.tensor([list(r) for r in references])
    size = len(source_ids)
    sites = [residual_site(model, layer) for layer in layers]
    acts = model.capture(source_ids, sites, batch_size=size)

    def lead(ids: list[list[int]]) -> Float[Tensor, " pair"]:
        logits = model.last_logits(ids, batch_size=size).float().cpu()
        return logits.gather(1, target[:, None]).squeeze(1) - logits.gather(1, reference).mean(1)

    base = lead(corrupt_ids)
    effect = torch.empty(size, len(layers), len(positions))
    for i, site in enumerate(sites):
        for j, pos in enumerate(positions):
            with model.edit({site: patch(acts[site], pos)}):
                effect[:, i, j] = lead(corrupt_ids) - base
            if progress is not None:
                progress(i * len(positions) + j + 1, len(sites) * len(positions))
    return PatchingResult(effect, lead(source_ids) - base)
