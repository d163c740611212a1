"""Edits held against plain transformers: does one do at its site what its name says?

The plain model is edited by a forward hook on the module that stands where the site is. Where no module shows the
value (inside attention, inside a norm), all that can be asked is whether the edit reaches the logits.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.checking.noted import find_nested_tap
from interp.model.checking.reference import difference
from interp.model.hooks.editing import Where
from interp.model.hooks.engines import Reader, run_plain
from interp.model.hooks.plain import find_tap
from interp.model.hooks.sites import kind_of
from interp.model.hooks.taps import Tap
from interp.model.hooks.tokens import pad
from interp.model.model import Model
from interp.progress import Progress

EDITED = 1e-4  # of the largest logit: what an edit changes is rounded in other ways


@dataclass
class EditsChecked:
    """Kinds of site by what came of an edit there. `lost`: the logits stayed. `other`: they moved, but not as plain
    transformers' do. `alone`: no module of plain transformers stands there, so that they were only seen to move.
    `refused`: an edit there says that it would do nothing."""

    lost: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def check_edits(model: Model, row: list[int], tell: Progress) -> EditsChecked:
    """Edit a site of every kind, in a middle layer, coarsely enough that the logits must move."""
    by_kind: dict[str, list[str]] = {}
    for site in model.site_table.listed:
        by_kind.setdefault(kind_of(site), []).append(site)
    before, checked = model.logits([row]), EditsChecked()
    for i, (kind, sites) in enumerate(by_kind.items()):
        tell("an edit at every kind of site", i + 1, len(by_kind))
        site = sites[len(sites) // 2]
        with warnings.catch_warnings():  # TransformerLens tells that an edited norm is computed in another way
            warnings.simplefilter("ignore", UserWarning)
            widths: list[int] = []
            try:
                with model.edit({site: lambda tensor, where, widths=widths: _noted(tensor, widths)}):
                    edited = model.logits([row])
            except UserError:  # such as a site that only shows a value
                checked.refused.append(kind)
                continue
        if torch.equal(edited, before):
            checked.lost.append(kind)
        elif (plain := _edited_plainly(model, row, site, widths[0])) is None:
            checked.alone.append(kind)
        else:
            same = difference(edited[0].float().cpu(), plain)[1] < EDITED
            (checked.same if same else checked.other).append(kind)
    return checked


def spoil(activation: Tensor, where: Where | None = None) -> Tensor:
    """A coarse change that is the same whichever way heads and positions are laid out."""
    slope = torch.linspace(-1, 1, activation.shape[-1], device=activation.device, dtype=activation.dtype)
    return activation * 1.5 + (activation.abs().clamp(max=100).mean() + 0.01) * slope  # zeros change too


def _noted(activation: Tensor, widths: list[int]) -> Tensor:
    widths.append(activation.shape[-1])
    return spoil(activation)


def _edited_plainly(model: Model, row: list[int], site: str, width: int) -> Tensor | None:
    """The plain model's logits under the same edit; None where no module of it stands at the site."""
    origin = model.site_table.origin[site]
    tap = find_tap(model.tree, origin) or find_nested_tap(model, origin)
    if tap is None:
        return None
    came: list[int] = []

    def by_head(tensor: Tensor) -> Tensor | None:
        """The hooks part a matrix's output into heads, whose width an edit sees."""
        came.append(tensor.shape[-1])
        if tensor.shape[-1] == width:
            return spoil(tensor)
        return spoil(tensor.unflatten(-1, (-1, width))).flatten(-2) if tensor.shape[-1] % width == 0 else None

    whole: Tap = replace(tap, heads=None)
    batch = pad([row], [0], 1, "right", 0, model.device)
    at: list[tuple[Tap, Reader]] = [(whole, by_head)]
    if site.endswith(".hook_resid_mid"):  # the stream itself, which goes past the MLP too
        end = find_tap(model.tree, model.site_table.origin[site.replace("_mid", "_post")])
        if end is None:
            return None
        added: list[Tensor] = []
        at = [(whole, lambda tensor: added.append(spoil(tensor) - tensor) or by_head(tensor))]
        at.append((end, lambda output: output + added[0]))
    with torch.no_grad():
        logits = run_plain(model.hf, batch, at).logits
    return logits[0].float().cpu() if came and came[0] % width == 0 else None
