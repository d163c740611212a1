"""Gated sites, which TransformerLens keeps switched off because each keeps a residual stream more: what one costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.errors import UserError
from interp.model.hooks.site_reading import measure_gated
from interp.model.hooks.sites import SiteTable, kind_of

if TYPE_CHECKING:  # importing transformer_lens is bridge.py's business
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class GatedKind:
    """Gated sites of one kind: in how many layers, what they carry, and what an open one keeps, in words."""

    kind: str
    n_sites: int
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    cost: str


def cost_in_words(axes: tuple[str, ...], shape: tuple[int, ...], itemsize: int) -> str:
    """What an open site keeps."""
    width = shape[-1] * itemsize
    size = f"{width / 1000:.1f} kB" if width >= 1000 else f"{width} bytes"
    if "head" in axes:
        return f"keeps a residual stream a head: {shape[axes.index('head')]} x {size} a token and layer"
    return f"keeps a residual stream: {size} a token and layer"


def list_gated(bridge: TransformerBridge, table: SiteTable, itemsize: int) -> list[GatedKind]:
    """The kinds of gated site that this model can open, each place by one name; measured, and closed again."""
    listed: list[GatedKind] = []
    points = bridge.hook_dict
    for switch in dict.fromkeys(table.gated.values()):
        names = {id(points[name]): name for name, needs in table.gated.items() if needs == switch}
        try:
            measured = measure_gated(bridge, [*names.values()], switch)
        except UserError:  # a switch that this model does not take: its sites are refused by name
            continue
        kinds: dict[str, list[str]] = {}
        for name in measured:
            kinds.setdefault(kind_of(name), []).append(name)
        for kind, sites in kinds.items():
            axes, shape = measured[sites[0]]
            listed.append(GatedKind(kind, len(sites), axes, shape, cost_in_words(axes, shape, itemsize)))
    return listed
