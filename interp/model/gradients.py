"""Gradients of a number of the logits with respect to activations: the slope that attribution methods use.

    effects = gradients_of(model, prompts, "blocks.*.hook_resid_post", lambda logits, where: logits[:, -1, paris])

Edits that are active are part of what is differentiated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.captured import Activations, place
from interp.model.hooks.forward import batches, forward
from interp.model.hooks.metrics import Metric, apply_metric, heeds_padding
from interp.model.hooks.shown import Shown
from interp.model.hooks.tokens import Prompts, Tokens, pad
from interp.model.hooks.tree import looks_once
from interp.model.model import Model


@dataclass(frozen=True, repr=False)
class Observed(Shown):
    """`values` [prompt]: the metric. `acts`: by site, as captured, of the same forwards."""

    values: Float[Tensor, " prompt"]
    acts: Activations


@dataclass(frozen=True, repr=False)
class Slopes(Observed):
    """`gradients`: by site, d value / d activation, in the shape of `acts`."""

    gradients: Activations


@looks_once
def observe(
    model: Model, prompts: Prompts, sites: str | Iterable[str], metric: Metric, *, batch_size: int = 16
) -> Observed:
    """Metric and activations from one forward a batch: `model.measure` and `model.capture` in one."""
    found = _Collected(model, prompts, sites)
    alike = None if heeds_padding(metric) else lambda i: len(found.ids[i])
    for batch in batches(model.tree, found.ids, batch_size, "right", found.names, alike=alike):
        logits, seen = _run(model, batch, found.names, gradients=False)
        found.add(batch, apply_metric(metric, logits, batch), seen)
    return Observed(found.values, found.activations())


@looks_once
def gradients_of(
    model: Model, prompts: Prompts, sites: str | Iterable[str], metric: Metric, *, batch_size: int = 16
) -> Slopes:
    """One forward and one backward a batch. `metric(logits, where)` gives one number a prompt.

    `where` says which prompts these are and where their real tokens lie. A metric of your own gets prompts of one
    length at a time, without padding.
    Raises UserError for a site that the logits do not depend on, and for a metric of another shape.
    """
    found, slopes = (_Collected(model, prompts, sites) for _ in range(2))
    alike = None if heeds_padding(metric) else lambda i: len(found.ids[i])
    for batch in batches(model.tree, found.ids, batch_size, "right", found.names, alike=alike):
        logits, seen = _run(model, batch, found.names, gradients=True)
        with torch.enable_grad():
            value = apply_metric(metric, logits, batch)
        if not value.requires_grad:
            raise UserError(f"the metric does not depend on {', '.join(found.names[:5])}: its value has no gradient")
        grads = torch.autograd.grad(value.sum(), list(seen.values()), allow_unused=True)
        unused = [name for name, slope in zip(seen, grads, strict=True) if slope is None]
        if unused:
            raise UserError(f"the metric does not depend on {', '.join(unused[:5])}; choose other sites")
        found.add(batch, value, seen)
        slopes.add(batch, value, dict(zip(seen, grads, strict=True)))
    return Slopes(found.values, found.activations(), slopes.activations())


class _Collected:
    """Values and activations of all prompts, batch by batch."""

    def __init__(self, model: Model, prompts: Prompts, sites: str | Iterable[str]) -> None:
        self.names = model.tree.match(sites)
        self.axes = {name: model.tree.site_table.axes[name] for name in self.names}
        self.ids = model.encode(prompts)
        self.values = torch.empty(len(self.ids), device=model.device)
        self._whole = pad(self.ids, range(len(self.ids)), len(self.ids), "right", 0, model.device)
        self._tensors: dict[str, Tensor] = {}

    def add(self, batch: Tokens, values: Tensor, tensors: Mapping[str, Tensor]) -> None:
        self.values[batch.index.to(self.values.device)] = values.detach().float()
        for name, tensor in tensors.items():
            place(self._tensors, name, tensor.detach(), batch, self._whole, self.axes[name])

    def activations(self) -> Activations:
        ids = self._whole.ids.masked_fill(~self._whole.mask, -1)
        return Activations(self._tensors, self._whole.mask, ids, self.axes)


def _run(model: Model, batch: Tokens, names: list[str], *, gradients: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits of one batch, and the tensors that they were made from at these sites."""
    seen: dict[str, Tensor] = {}

    def follow(name: str, tensor: Tensor) -> Tensor | None:
        if not gradients:
            seen.setdefault(name, tensor.clone())  # a module that runs twice shows its first run
            return None
        kept = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_(True)
        seen.setdefault(name, kept)
        return kept

    if gradients:
        for active in model.tree.active:
            active.read_at.update(names)
    watch = {name: partial(follow, name) for name in names}
    logits = forward(model.tree, batch, watch=watch, gradients=gradients).logits
    return logits, {name: seen[name] for name in names}
