"""Gradients of a number of the logits with respect to activations: the slope that attribution methods use.

    effects = gradients_of(model, prompts, "blocks.*.hook_resid_post", lambda logits, site: logits[:, -1, paris])

Edits that are active are part of what is differentiated.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.captured import Activations
from interp.model.hooks import Metric, apply_metric, place
from interp.model.model import Model
from interp.model.tokens import Prompts, pad


@dataclass(frozen=True)
class Slopes:
    """`values` [prompt]: the metric. `acts` and `gradients`: by site, as captured, and d value / d activation."""

    values: Float[Tensor, " prompt"]
    acts: Activations
    gradients: Activations


def gradients_of(
    model: Model, prompts: Prompts, sites: str | Iterable[str], metric: Metric, *, batch_size: int = 16
) -> Slopes:
    """One forward and one backward a batch. `metric(logits, site)` gives one number a prompt.

    `site` says which prompts these are and where their real tokens lie; padding is on the right.
    Raises UserError for a site that the logits do not depend on, and for a metric of another shape.
    """
    names = model.site_table.match(sites)
    ids = model.encode(prompts)
    whole = pad(ids, range(len(ids)), len(ids), "right", 0, model.device)
    acts: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}
    values = torch.empty(len(ids), device=model.device)
    for batch in model.tree.batches(ids, batch_size, "right"):
        seen: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(model.tree.attached_at(name, partial(_follow, seen, name)))
            logits = model.tree.forward(batch, gradients=True)
        with torch.enable_grad():
            value = apply_metric(metric, logits, batch)
        if not value.requires_grad:
            raise UserError(f"the metric does not depend on {', '.join(names[:5])}: its value has no gradient")
        found = torch.autograd.grad(value.sum(), [seen[name] for name in names], allow_unused=True)
        unused = [name for name, slope in zip(names, found, strict=True) if slope is None]
        if unused:
            raise UserError(f"the metric does not depend on {', '.join(unused[:5])}; choose other sites")
        values[batch.index.to(values.device)] = value.detach().float()
        for name, slope in zip(names, found, strict=True):
            axes = model.site_table.axes[name]
            place(acts, name, seen[name].detach(), batch, whole, axes)
            place(slopes, name, slope, batch, whole, axes)
    kept_ids, axes_of = whole.ids.masked_fill(~whole.mask, -1), {name: model.site_table.axes[name] for name in names}
    return Slopes(values, *(Activations(some, whole.mask, kept_ids, axes_of) for some in (acts, slopes)))


def _follow(seen: dict[str, Tensor], name: str, tensor: Tensor) -> Tensor:
    """Keep a tensor that the rest of the forward is made from."""
    kept = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_(True)
    seen.setdefault(name, kept)  # a module that runs twice shows its first run
    return kept
