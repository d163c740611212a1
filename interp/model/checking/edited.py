"""Edits held against plain transformers: does one do at its site what its name says?

The plain model is edited by a forward hook on the module that stands where the site is. Where no module shows the
value (inside attention, inside a norm), all that can be asked is whether the edit reaches the logits. A site may also
refuse every edit: that is right where the model does not read the value back, or breaks on it, and a fault where the
same change, made past the refusal or in the plain module, moves the logits.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.checking.noted import find_nested_tap
from interp.model.checking.reference import difference
from interp.model.hooks.asked import tap_of
from interp.model.hooks.engines import Reader, run_hooked, run_plain
from interp.model.hooks.midstream import MID, MLP, OUT
from interp.model.hooks.plain import find_tap
from interp.model.hooks.sites import kind_of
from interp.model.hooks.taps import Tap
from interp.model.hooks.tokens import Tokens, pad
from interp.model.hooks.where import Where
from interp.model.model import Model
from interp.progress import Progress

EDITED = 1e-4  # of the largest logit: what an edit changes is rounded in other ways


@dataclass
class EditsChecked:
    """Kinds of site by what came of an edit there. `lost`: the logits stayed. `other`: they moved, but not as plain
    transformers' do. `same`: they moved as these do. `alone`: no module of plain transformers stands there, so that
    they were only seen to move. `refused`: an edit there is refused, with the words of the refusal; `barred`: those of
    them where the same change moves the logits if it is made all the same, so that nothing justifies it."""

    lost: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    barred: list[str] = field(default_factory=list)


def check_edits(model: Model, row: list[int], tell: Progress) -> EditsChecked:
    """Edit a site of every kind, in a middle layer, coarsely enough that the logits must move."""
    by_kind: dict[str, list[str]] = {}
    for site in model.tree.site_table.listed:
        by_kind.setdefault(kind_of(site), []).append(site)
    before, checked = model.logits([row]), EditsChecked()
    for i, (kind, sites) in enumerate(by_kind.items()):
        tell("an edit at every kind of site", i + 1, len(by_kind))
        site = sites[len(sites) // 2]
        widths: list[int] = []
        try:
            edited = logits_edited(model, row, site, widths)
        except UserError as refusal:  # such as at a site that only shows a value
            checked.refused[kind] = str(refusal)
            checked.barred += [kind] if _could_be_taken(model, row, site) else []
            continue
        if torch.equal(edited, before[0]):
            checked.lost.append(kind)
        elif (plain := edited_plainly(model, row, site, widths[0])) is None:
            checked.alone.append(kind)
        else:
            same = difference(edited.float().cpu(), plain)[1] < EDITED
            (checked.same if same else checked.other).append(kind)
    return checked


def logits_edited(model: Model, row: list[int], site: str, widths: list[int]) -> Tensor:
    """The model's logits under a coarse edit; the width that the edit saw is added to `widths`."""

    def change(activation: Tensor, where: Where) -> Tensor:
        widths.append(activation.shape[-1])
        return spoil(activation)

    with warnings.catch_warnings():  # TransformerLens tells that an edited norm is computed in another way
        warnings.simplefilter("ignore", UserWarning)
        with model.edit({site: change}):
            return model.logits([row])[0]


def spoil(activation: Tensor, where: Where | None = None) -> Tensor:
    """A coarse change that is the same whichever way heads and positions are laid out."""
    slope = torch.linspace(-1, 1, activation.shape[-1], device=activation.device, dtype=activation.dtype)
    return activation * 1.5 + (activation.abs().clamp(max=100).mean() + 0.01) * slope  # zeros change too


def _could_be_taken(model: Model, row: list[int], site: str) -> bool:
    """Would the change that was refused move the logits, made without asking whether it may be made?

    In the hooked tree, or at the module of the plain model that shows the value; no where TransformerLens breaks on it.
    """
    if site.endswith(f".{MID}"):
        return _goes_past_the_mlp(model, row, site.removesuffix(MID))
    try:
        hooked = [_run_hooked(model, row, at) for at in ([], [model.tree.attached_at(site, spoil)])]
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError):
        return False
    tap = tap_of(model.tree, site)
    plain = [] if tap is None else [_run(model, row, at) for at in ([], [(replace(tap, heads=None), spoil)])]
    return any(not torch.equal(before, after) for before, after in filter(None, (hooked, plain)))


def _goes_past_the_mlp(model: Model, row: list[int], block: str) -> bool:
    """Does the plain block give out the stream in its middle where its MLP adds nothing? Only then has a change of it
    one meaning."""
    taps = [tap_of(model.tree, block + end) for end in (MID, MLP, OUT)]
    if any(tap is None for tap in taps):
        return False
    seen: list[Tensor] = []
    readers: list[Reader] = [seen.append, torch.zeros_like, seen.append]
    _run(model, row, [(tap, reader) for tap, reader in zip(taps, readers, strict=True) if tap is not None])
    return difference(seen[1], seen[0])[1] < EDITED


def _run_hooked(model: Model, row: list[int], at: Sequence[AbstractContextManager[None]]) -> Tensor:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return run_hooked(model.bridge, pad([row], [0], 1, "right", 0, model.device), at, masked=True).logits


def _run(model: Model, row: list[int], at: Sequence[tuple[Tap, Reader]]) -> Tensor:
    batch: Tokens = pad([row], [0], 1, "right", 0, model.device)
    with torch.no_grad():
        return run_plain(model.hf, batch, at).logits[0].float().cpu()


def edited_plainly(model: Model, row: list[int], site: str, width: int) -> Tensor | None:
    """The plain model's logits under the same edit; None where no module of it stands at the site."""
    origin = model.tree.site_table.origin[site]
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
    at: list[tuple[Tap, Reader]] = [(whole, by_head)]
    if site.endswith(f".{MID}"):  # the stream itself, which goes past the MLP too
        end = find_tap(model.tree, model.tree.site_table.origin[site.replace(MID, OUT)])
        if end is None:
            return None
        added: list[Tensor] = []
        at = [(whole, lambda tensor: added.append(spoil(tensor) - tensor) or by_head(tensor))]
        at.append((end, lambda output: output + added[0]))
    logits = _run(model, row, at)
    return logits if came and came[0] % width == 0 else None
