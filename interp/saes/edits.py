"""Edits that put an SAE, or a mean, in the place of an activation. Attention sinks and padding stay as they are.

    with model.edit({site_of(sae): reconstruct(sae)}) as receipts: ...

A sink's vector is a hundred times longer than the rest and no SAE of ours was trained on one: replacing it would break
the model in a way that says nothing about the dictionary. The rule is that of `interp.activations.rows.find_sinks`; its
median norm is taken over the batch that is being edited, or is `typical_norm` where the caller knows it of a corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from interp.activations.rows import find_sinks
from interp.errors import UserError
from interp.model.hooks.editing import Change
from interp.model.hooks.given import makes
from interp.model.hooks.where import Where


@makes("reconstruct(sae)")
def reconstruct(sae: SAE[Any], keep_error: bool = False, *, typical_norm: float | None = None) -> Change:
    """Replace x by decode(encode(x)), at a site [prompt, pos, d_model] as wide as the SAE's input.

    `keep_error` adds the error term x - decode(encode(x)) back (Marks et al. 2403.19647): the result equals x up to
    rounding, and is where an edit of features starts from.
    """

    def reconstructed(activation: Tensor, where: Where) -> Tensor:
        _check_width(sae, activation, where)
        return _replace(activation, where, through, typical_norm)

    def through(rows: Tensor) -> Tensor:
        out = reconstruction(sae, rows)
        return out + (rows - out) if keep_error else out

    return reconstructed


@makes("edit_features(sae, change)")
def edit_features(
    sae: SAE[Any],
    change: Callable[[Float[Tensor, "row d_sae"]], Float[Tensor, "row d_sae"]],
    *,
    typical_norm: float | None = None,
) -> Change:
    """Change the features of x and leave the rest of it alone: x + decode(change(f)) - decode(f), with f = encode(x).

    The error term stays (Marks et al. 2403.19647): a `change` that changes nothing changes no bit of x.
    """

    def features_edited(activation: Tensor, where: Where) -> Tensor:
        _check_width(sae, activation, where)
        return _replace(activation, where, through, typical_norm)

    def through(rows: Tensor) -> Tensor:
        features = sae.encode(rows.to(sae.device, sae.dtype))
        changed = change(features.clone())
        if not isinstance(changed, Tensor) or changed.shape != features.shape:
            got = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise UserError(f"edit_features: the change returned {got}; expected a tensor {tuple(features.shape)}")
        moved = (changed != features).any(-1, keepdim=True)
        return torch.where(moved, rows + (sae.decode(changed) - sae.decode(features)).to(rows), rows)

    return features_edited


@makes("clamp_features(sae, {7: 0.0})")
def clamp_features(sae: SAE[Any], values: Mapping[int, float], *, typical_norm: float | None = None) -> Change:
    """Hold features at given activations (0 ablates them) at every token; see `edit_features`."""
    ids, wanted = _features(sae, values)

    def clamped(features: Tensor) -> Tensor:
        features[:, ids] = wanted.to(features)
        return features

    return edit_features(sae, clamped, typical_norm=typical_norm)


@makes("steer_features(sae, {7: 4.0})")
def steer_features(sae: SAE[Any], values: Mapping[int, float], *, typical_norm: float | None = None) -> Change:
    """Add to features' activations, whether they fire or not: their decoder directions, times the values given."""
    ids, wanted = _features(sae, values)

    def steered(features: Tensor) -> Tensor:
        features[:, ids] += wanted.to(features)
        return features

    return edit_features(sae, steered, typical_norm=typical_norm)


def _features(sae: SAE[Any], values: Mapping[int, float]) -> tuple[list[int], Tensor]:
    wrong = [i for i in values if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < sae.cfg.d_sae]
    if wrong or not values or not isinstance(values, Mapping):
        raise UserError(f"features {wrong or 'none'} came; expected {{feature: activation}}, 0 to {sae.cfg.d_sae - 1}")
    return list(values), torch.tensor([float(v) for v in values.values()])


def _check_width(sae: SAE[Any], activation: Tensor, where: Where) -> None:
    if activation.shape[-1] != sae.cfg.d_in:
        raise UserError(
            f"this SAE has d_in={sae.cfg.d_in}, but {where.name} is {activation.shape[-1]} wide; "
            f"edit the site that it reads, {sae.cfg.metadata.hook_name}"
        )


@makes("mean_ablate(mean)")
def mean_ablate(mean: Float[Tensor, " d_model"], *, typical_norm: float | None = None) -> Change:
    """Replace the activation [prompt, pos, d_model] by `mean` (zeros: zero ablation), where `reconstruct` does."""

    def mean_ablated(activation: Tensor, where: Where) -> Tensor:
        if mean.shape != activation.shape[-1:]:
            raise UserError(
                f"mean_ablate at {where.name} got shape {tuple(mean.shape)}; expected ({activation.shape[-1]},)"
            )
        return _replace(activation, where, lambda rows: mean.to(rows).expand_as(rows), typical_norm)

    return mean_ablated


def reconstruction(sae: SAE[Any], rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """decode(encode(rows)), computed where and as the SAE's weights are, returned where and as `rows` is."""
    with torch.set_grad_enabled(rows.requires_grad and torch.is_grad_enabled()):  # no graph but where one was asked for
        return sae.decode(sae.encode(rows.to(sae.device, sae.dtype))).to(rows)


def _replace(activation: Tensor, where: Where, change: Callable[[Tensor], Tensor], typical: float | None) -> Tensor:
    """The activation with `change` applied to the vectors [row, d_model] of real tokens that are no sinks."""
    if where.axes != ("prompt", "pos", "feature"):
        raise UserError(f"this edit replaces one vector a token, but {where.name} has axes {', '.join(where.axes)}")
    position = (where.mask.long().cumsum(-1) - 1)[where.mask]
    chosen = where.mask.clone()
    chosen[where.mask] = ~find_sinks(activation[where.mask].float(), position, typical)
    out = activation.clone()
    if bool(chosen.any()):
        out[chosen] = change(activation[chosen])
    return out
