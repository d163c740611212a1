"""Which activation carries the answer? Put one activation of a source run into a corrupt run and see what moves.

Causal tracing after Meng et al. (2202.05262), with another prompt of the same layout as the corruption (Vig et al.
2004.12265): the prompts differ in the item only, so that both runs stay on the data the model knows. `patch_sweep`
measures every place, `attribution_patch` estimates them all from one gradient (Nanda 2023, Syed et al. 2310.10348), and
`path_patch` measures what one place does through chosen others only (Wang et al. 2211.00593).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analysis.lens import residual_site
from interp.errors import UserError
from interp.model.captured import Activations
from interp.model.choose import Some, only
from interp.model.edits import compose, freeze, patch
from interp.model.gradients import gradients_of
from interp.model.hooks import Edit, Metric, Site
from interp.model.model import Model
from interp.model.tokens import Prompts

By = Literal["pos", "head"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sweep:
    """What moving each place does to the metric.

    `effect` [pair, site, *by]: the metric with that place patched, less the corrupt run's; NaN where a pair has no such
    position. `by` names the axes behind the site; `positions` are the tokens of a "pos" axis. `source` and `corrupt`
    [pair]: the metric of the runs themselves.
    """

    effect: Float[Tensor, "pair site ..."]
    sites: tuple[str, ...]
    by: tuple[By, ...]
    positions: tuple[int, ...]
    source: Float[Tensor, " pair"]
    corrupt: Float[Tensor, " pair"]

    @property
    def total(self) -> Float[Tensor, " pair"]:
        """What patching everything would do."""
        return self.source - self.corrupt

    @property
    def share(self) -> Float[Tensor, "pair site ..."]:
        """Effect as a share of the pair's total."""
        return self.effect / self.total.view(-1, *[1] * (self.effect.ndim - 1))

    def top(self) -> dict[str, int | str]:
        """The place with the largest mean effect over pairs, whatever its sign: its site, and "pos" and "head"."""
        mean = self.effect.nanmean(0).abs().nan_to_num(-1.0)
        site, *rest = (int(i) for i in torch.unravel_index(mean.argmax(), mean.shape))
        where = dict(zip(self.by, rest, strict=True))
        if "pos" in where:
            where["pos"] = self.positions[where["pos"]]
        return {"site": self.sites[site], **where}


def patch_sweep(
    model: Model,
    source: Prompts,
    corrupt: Prompts,
    metric: Metric,
    sites: str | Iterable[str],
    *,
    by: Sequence[By] = ("pos",),
    positions: Sequence[int] | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Sweep:
    """Patch every place of `sites` in turn, the source run's values into the corrupt run.

    `source` are the clean prompts, or unrelated ones as a control; pair by pair they need the same number of tokens.
    `by`: each position by itself, each head by itself, both, or none of it (a site as a whole). `positions`: all by
    default; negative ones count from the end. A batch holds places of one site, so that a sweep costs what its forwards
    cost: one row a pair and place.
    Raises UserError when a source and a corrupt prompt differ in length, with both layouts, and for heads where a site
    has none.
    """
    pairs = _pair(model, source, corrupt)
    names = model.site_table.match(sites)
    acts = model.capture(pairs.source, names, batch_size=batch_size)
    grid = _grid(pairs, acts, by, positions)
    # rows of one length side by side, as they come in a batch: row i of a run is then cell i
    grid.cells.sort(key=lambda cell: len(pairs.corrupt[cell.pair]))
    base = model.measure(pairs.corrupt, metric, batch_size=batch_size).cpu()
    effect = torch.full((len(pairs.source), len(names), *map(len, grid.axes)), torch.nan)
    done, total = 0, len(names) * len(grid.cells)
    for i, name in enumerate(names):
        for start in range(0, len(grid.cells), batch_size):
            some = grid.cells[start : start + batch_size]
            with model.edit({name: _patch_cells(acts[name], some)}):
                values = model.measure(
                    [pairs.corrupt[cell.pair] for cell in some],
                    metric,
                    batch_size=len(some),
                    numbers=[cell.pair for cell in some],
                    total=len(pairs.source),
                )
            for cell, value in zip(some, values.tolist(), strict=True):
                effect[cell.pair, i, *cell.index] = value - base[cell.pair]
            done += len(some)
            if progress is not None:
                progress(done, total)
    whole = model.measure(pairs.source, metric, batch_size=batch_size).cpu()
    return Sweep(effect, tuple(names), tuple(by), grid.positions, whole, base)


def attribution_patch(
    model: Model,
    source: Prompts,
    corrupt: Prompts,
    metric: Metric,
    sites: str | Iterable[str],
    *,
    by: Sequence[By] = ("pos",),
    positions: Sequence[int] | None = None,
    batch_size: int = 16,
) -> Sweep:
    """Estimate `patch_sweep` to first order: (source - corrupt) times the metric's gradient in the corrupt run.

    Two forwards and one backward for all places together. It is an approximation, bad where the model saturates:
    compare it with a sweep (`correlation`) before believing it.
    """
    pairs = _pair(model, source, corrupt)
    slopes = gradients_of(model, pairs.corrupt, sites, metric, batch_size=batch_size)
    names = list(slopes.gradients)
    acts = model.capture(pairs.source, names, batch_size=batch_size)
    grid = _grid(pairs, acts, by, positions)
    effect = torch.full((len(pairs.source), len(names), *map(len, grid.axes)), torch.nan)
    for i, name in enumerate(names):
        moved = ((acts[name] - slopes.acts[name]) * slopes.gradients[name]).float().cpu()
        moved[~acts.mask.cpu()] = 0.0
        for cell in grid.cells:
            part = moved[cell.pair]
            part = part if cell.pos is None else part[cell.pos : cell.pos + 1]
            effect[cell.pair, i, *cell.index] = (part if cell.head is None else part[:, cell.head]).sum()
    whole = model.measure(pairs.source, metric, batch_size=batch_size).cpu()
    return Sweep(effect, tuple(names), tuple(by), grid.positions, whole, slopes.values.cpu())


def correlation(estimated: Sweep, measured: Sweep) -> float:
    """Pearson's correlation over all places and pairs of two sweeps of the same places."""
    places = [(s.sites, s.by, s.positions, s.effect.shape) for s in (estimated, measured)]
    if places[0] != places[1]:
        raise UserError("the two sweeps are of other places; run both with the same sites, by and positions")
    a, b = estimated.effect.flatten().double(), measured.effect.flatten().double()
    both = a.isfinite() & b.isfinite()
    return float(torch.corrcoef(torch.stack([a[both], b[both]]))[0, 1])


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
    """
    pairs = _pair(model, source, corrupt)
    origin = model.site_table.origin
    there = model.capture(pairs.source, sender, batch_size=batch_size)
    ends = model.site_table.match(receivers)
    if {origin[site] for site in ends} & {origin[site] for site in there}:
        raise UserError(f"{sender} is sender and receiver; patch it with patch_sweep, or choose receivers behind it")
    kinds = ["blocks.*.attn.hook_z"] if through_mlps else ["blocks.*.attn.hook_z", "blocks.*.hook_mlp_out"]
    held = [site for site in model.site_table.match(kinds) if not any(_makes(part, site) for part in there)]
    own = model.capture(pairs.corrupt, list(dict.fromkeys([*held, *ends])), batch_size=batch_size)
    frozen = freeze({site: own[site] for site in held})
    sent: dict[str, Edit] = {}
    for site, values in there.items():
        patched = only(patch(values, pos), heads=heads) if heads is not None else patch(values, pos)
        names = [name for name in held if origin[name] == origin[site]]  # the sender may go by another name
        sent[names[0] if names else site] = compose(frozen[names[0]], patched) if names else patched
    last = residual_site(model, model.n_layers)
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


@dataclass(frozen=True)
class _Pairs:
    source: list[list[int]]
    corrupt: list[list[int]]


@dataclass(frozen=True)
class _Cell:
    """One place of one pair: where it stands in the table of effects, and what is patched there."""

    pair: int
    index: tuple[int, ...]
    pos: int | None
    head: int | None


@dataclass(frozen=True)
class _Grid:
    axes: tuple[range, ...]
    positions: tuple[int, ...]
    cells: list[_Cell]


def _pair(model: Model, source: Prompts, corrupt: Prompts) -> _Pairs:
    pairs = _Pairs(model.encode(source), model.encode(corrupt))
    if len(pairs.source) != len(pairs.corrupt):
        raise UserError(f"{len(pairs.source)} source and {len(pairs.corrupt)} corrupt prompts came; expected pairs")
    for a, b in zip(pairs.source, pairs.corrupt, strict=True):
        if len(a) != len(b):
            left, right = ("|".join(str(model.tokenizer.decode([t])) for t in ids) for ids in (a, b))
            raise UserError(
                f"patching needs prompts of one length: {left!r} has {len(a)} tokens, {right!r} has {len(b)}"
            )
    return pairs


def _grid(pairs: _Pairs, acts: Activations, by: Sequence[By], positions: Sequence[int] | None) -> _Grid:
    """Every place of every pair. Raises UserError for axes that a site has not, and positions that no pair has."""
    heads = {acts[name].shape[2] for name in acts} if "head" in by else {0}
    for name in acts:
        axes = acts.axes[name]
        if axes[:2] != ("prompt", "pos") or ("head" in by and len(axes) != 4):
            wanted = "one activation a token and head" if "head" in by else "one activation a token"
            raise UserError(f"site {name!r} has the axes {', '.join(axes)}; expected {wanted}")
    if len(heads) > 1:
        raise UserError(f"the sites have {sorted(heads)} heads; sweep those of one number of heads at a time")
    if set(by) - {"pos", "head"} or len(set(by)) != len(by) or ("head" in by and by[-1] != "head"):
        raise UserError(f"by={tuple(by)}; expected (), ('pos',), ('head',) or ('pos', 'head')")
    longest = max(map(len, pairs.source))
    wanted = list(range(longest)) if positions is None else list(positions)
    if positions is not None and ("pos" not in by or not wanted):
        raise UserError(f"positions={wanted} with by={tuple(by)}; expected some positions, and 'pos' in `by`")
    axes = tuple(range(len(wanted)) if axis == "pos" else range(max(heads)) for axis in by)
    cells = []
    for i, ids in enumerate(pairs.source):
        for index in product(*axes):
            where = dict(zip(by, index, strict=True))
            pos = wanted[where["pos"]] if "pos" in where else None
            if pos is not None and not -len(ids) <= pos < len(ids):
                if positions is not None:
                    raise UserError(f"position {pos} is outside a prompt of {len(ids)} tokens")
                continue
            cells.append(_Cell(i, index, None if pos is None else pos % len(ids), where.get("head")))
    return _Grid(axes, tuple(wanted), cells)


def _patch_cells(values: Float[Tensor, "pair pos ..."], cells: Sequence[_Cell]) -> Edit:
    """Row i of the run gets `values` of its pair at the place of cell i."""

    def patched(activation: Tensor, site: Site) -> Tensor:
        out = activation.clone()
        for row, cell in enumerate(cells):
            pos = slice(0, int(site.mask[row].sum())) if cell.pos is None else cell.pos
            head = slice(None) if cell.head is None else cell.head
            place = (row, pos, head) if activation.ndim == 4 else (row, pos)
            out[place] = values[(cell.pair, *place[1:])].to(out)
        return out

    return patched
