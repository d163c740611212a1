"""Path patching (Wang et al. 2211.00593): what one place does through chosen others only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analysis.patching import pair_up
from interp.errors import UserError
from interp.model.choose import Some, only
from interp.model.edits import compose, freeze, patch
from interp.model.hooks.editing import Edit
from interp.model.hooks.metrics import Metric
from interp.model.hooks.tokens import Prompts
from interp.model.model import Model


def path_patch(
    model: Model,
    source: Prompts,
    corrupt: Prompts,
    metric: Metric,
    sender: str,
    receivers: str | Iterable[str],
    *,
    heads: Some = None,
    pos: int | None = None,
    through_mlps: bool = True,
    batch_size: int = 16,
) -> Float[Tensor, " pair"]:
    """What `sender` does to the metric through `receivers` alone: the change from the corrupt run [pair].

    The source run's values go into the sender (its `heads`, at `pos`) while the output of every attention head stays
    what it was; what then arrives at the receivers is patched into an otherwise untouched corrupt run. MLPs between the
    two answer to the change (Wang et al.), or are held as well (`through_mlps=False`: the direct path only).
    Raises UserError for pairs of different lengths, a site that matches nothing, a sender among the receivers, and
    receivers that nothing of the sender reaches.
    """
    pairs = pair_up(model, source, corrupt)
    origin = model.site_table.origin
    there = model.capture(pairs.source, sender, batch_size=batch_size)
    ends = model.tree.match(receivers)
    if {origin[site] for site in ends} & {origin[site] for site in there}:
        raise UserError(f"{sender} is sender and receiver; patch it with patch_sweep, or choose receivers behind it")
    kinds = ["blocks.*.attn.hook_z"] if through_mlps else ["blocks.*.attn.hook_z", "blocks.*.hook_mlp_out"]
    held = [site for site in model.tree.match(kinds) if not any(_makes(part, site) for part in there)]
    own = model.capture(pairs.corrupt, list(dict.fromkeys([*held, *ends])), batch_size=batch_size)
    frozen = freeze({site: own[site] for site in held})
    sent: dict[str, Edit] = {}
    for site, values in there.items():
        patched = only(patch(values, pos), heads=heads) if heads is not None else patch(values, pos)
        names = [name for name in held if origin[name] == origin[site]]  # the sender may go by another name
        sent[names[0] if names else site] = compose(frozen[names[0]], patched) if names else patched
    last = model.residual(model.n_layers)
    arrived: dict[str, Tensor] = {}
    for group in _groups(ends, {origin[site] for site in held}, origin):
        open_ends = {origin[site] for site in group}  # read as it arrives, while all others are held
        edits = {site: edit for site, edit in {**frozen, **sent}.items() if origin[site] not in open_ends}
        with model.edit(edits):  # to the last block: a capture that ended earlier would leave edits without a turn
            arrived.update(dict(model.capture(pairs.corrupt, [*group, last], batch_size=batch_size)))
    if all(torch.equal(arrived[site].nan_to_num(), own[site].nan_to_num()) for site in ends):
        raise UserError(f"nothing of {sender} arrives at {', '.join(ends[:3])}; choose receivers that it can reach")
    base = model.measure(pairs.corrupt, metric, batch_size=batch_size)
    with model.edit(freeze({site: arrived[site] for site in ends})):
        return (model.measure(pairs.corrupt, metric, batch_size=batch_size) - base).cpu()


def _makes(part: str, site: str) -> bool:
    """Is `part` inside the attention or MLP whose output `site` is?"""
    whole = site.rpartition(".hook_z")[0] if site.endswith(".hook_z") else site.replace("hook_mlp_out", "mlp")
    return part.startswith(f"{whole}.") and part != site


def _groups(ends: list[str], held: set[str], origin: Mapping[str, str]) -> list[list[str]]:
    """Receivers that are held outputs themselves one at a time, or the first would answer to what reaches the next."""
    outputs = [[site] for site in ends if origin[site] in held]
    rest = [site for site in ends if origin[site] not in held]
    return [*outputs, rest] if rest else outputs
