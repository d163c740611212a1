"""Ready-made edits. Each returns a function `(activation, site) -> activation`; a function of yours works the same.

    with model.edit({"blocks.12.hook_resid_post": steer(direction, 4.0)}) as receipts: ...

`pos` chooses tokens per prompt: None for all, an index (-1 is the last token) or a slice.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks import Edit, Site

Pos = int | slice | None


def ablate(pos: Pos = None) -> Edit:
    """Set the activation to zero."""

    def ablated(activation: Tensor, site: Site) -> Tensor:
        return activation.masked_fill(_chosen(activation, site, pos), 0.0)

    return ablated


def steer(direction: Float[Tensor, " d"], coefficient: float = 1.0, pos: Pos = None) -> Edit:
    """Add `coefficient * direction` (Turner et al. 2308.10248). The direction is used as it is, not normalised."""
    if not isinstance(direction, Tensor):
        raise UserError(f"steer got a {type(direction).__name__}; expected a tensor [d]; convert with torch.as_tensor")

    def steered(activation: Tensor, site: Site) -> Tensor:
        if direction.shape != activation.shape[-1:]:
            raise UserError(
                f"steer got a direction of shape {tuple(direction.shape)} at {site.name}; "
                f"expected ({activation.shape[-1]},)"
            )
        change = coefficient * direction.to(activation)
        return activation + change * _chosen(activation, site, pos).to(activation.dtype)

    return steered


def patch(source: Float[Tensor, "prompt pos ..."], pos: Pos = None) -> Edit:
    """Replace the activation by `source`, which `capture` returned for the same number of prompts.

    Both prompts of a pair must have the same number of tokens (Meng et al. 2202.05262 patch position by position),
    unless `pos` is an index from the start, which means the same in prompts of different lengths.
    """
    if not isinstance(source, Tensor) or source.ndim < 3:
        raise UserError(f"patch got {_shape(source)}; expected a tensor [prompt, pos, feature], as capture returns it")
    absent = source.isnan().flatten(2).all(-1)  # capture writes NaN on padding
    from_start = pos is not None and not isinstance(pos, slice) and pos >= 0

    def patched(activation: Tensor, site: Site) -> Tensor:
        if len(source) != site.total:
            raise UserError(f"patch at {site.name} got {len(source)} prompts, but the edited run has {site.total}")
        if not bool(site.mask[:, 0].all()):
            raise UserError(f"patch at {site.name} met left padding; its source is aligned right: use padding='right'")
        wanted = site.prompts.to(source.device)
        if bool(absent[wanted, 0].any()):
            raise UserError(f"patch at {site.name} got a source with left padding; capture it with padding='right'")
        theirs, ours = (~absent[wanted]).sum(-1).cpu(), site.mask.sum(-1).cpu()
        if not from_start and bool((theirs != ours).any()):
            row = int((theirs != ours).nonzero()[0])
            raise UserError(
                f"patch at {site.name} got a source of {int(theirs[row])} tokens for prompt {int(site.prompts[row])}, "
                f"which has {int(ours[row])}; pair prompts with the same number of tokens"
            )
        if source.shape[2:] != activation.shape[2:]:
            raise UserError(
                f"patch at {site.name} got {_shape(source)}; expected [prompt, pos, {str([*activation.shape[2:]])[1:]}"
            )
        chosen = _chosen(activation, site, pos)
        width = min(source.shape[1], activation.shape[1])
        rows = activation.new_full(activation.shape, float("nan"))
        rows[:, :width] = source[wanted, :width].to(activation)
        if bool((rows.isnan() & chosen).any()):
            raise UserError(f"patch at {site.name} got a source with no value (NaN) at a chosen position of a prompt")
        return activation.where(~chosen, rows)

    return patched


def _shape(source: object) -> str:
    return f"shape {tuple(source.shape)}" if isinstance(source, Tensor) else type(source).__name__


def _chosen(activation: Tensor, site: Site, pos: Pos) -> Tensor:
    """The chosen tokens as a mask that broadcasts against `activation`."""
    if site.axes[:2] != ("prompt", "pos"):
        raise UserError(f"this edit works per token, but {site.name} has axes {site.axes}; write a function for it")
    mask = site.positions(pos)
    return mask.view(*mask.shape, *([1] * (activation.ndim - 2)))
