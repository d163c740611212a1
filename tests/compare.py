"""How far two activations are apart, padding left out."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.model.hooks.captured import Activations


def far(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference where `theirs` is a number that was computed, over its size where that exceeds 100."""
    both = torch.isfinite(theirs) & (theirs > -1e30)
    assert bool(torch.isfinite(ours[both]).all())
    ours, theirs = ours.detach(), theirs.detach()
    return float((ours - theirs)[both].abs().max()) / max(1.0, float(theirs[both].abs().max()) / 100)


def rows_of(acts: Activations, site: str, i: int) -> Tensor:
    """Prompt `i`'s activation with its padding cut off on every pos axis."""
    real = acts.mask[i].nonzero().flatten()
    tensor = acts[site][i]
    for axis, kind in enumerate(acts.axes[site][1:]):
        if kind == "pos":
            tensor = tensor.index_select(axis, real)
    return tensor
