"""Which activation carries the answer? Put one activation of a source run into a corrupt run and see what moves.

Causal tracing after Meng et al. (2202.05262), with another prompt of the same layout as the corruption (Vig et al.
2004.12265): the prompts differ in the item only, so that both runs stay on the data the model knows. `patch_sweep`
measures every place, and `attribution_patch` estimates them all from one gradient (Nanda 2023, Syed et al. 2310.10348).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analysis.cells import Cell, Runs, in_batches, is_the_same, place_of
from interp.errors import UserError
from interp.model.gradients import gradients_of, observe
from interp.model.hooks.captured import Activations
from interp.model.hooks.metrics import Metric
from interp.model.hooks.sites import layer_of
from interp.model.hooks.tokens import Prompts
from interp.model.hooks.tree import looks_once
from interp.model.model import Model
from interp.progress import Progress, silent

By = Literal["pos", "head"]
Spot = dict[str, int | str]  # a place of a sweep: its "site", and its "pos" and "head" where it is by these


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        by = " and ".join(self.by) or "whole sites"
        place = self.top(1)[0]
        largest = " ".join([str(place["site"]), *(f"{axis} {place[axis]}" for axis in self.by)])
        effect = float(self.effect.nanmean(0).flatten()[self._order()[0]])
        return f"Sweep(effect {list(self.effect.shape)}, by {by}; largest {largest} {effect:+.3g}, …)"

    @property
    def total(self) -> Float[Tensor, " pair"]:
        """What patching everything would do."""
        return self.source - self.corrupt

    @property
    def share(self) -> Float[Tensor, "pair site ..."]:
        """Effect as a share of the pair's total."""
        return self.effect / self.total.view(-1, *[1] * (self.effect.ndim - 1))

    @overload
    def top(self) -> Spot: ...

    @overload
    def top(self, n: int) -> list[Spot]: ...

    def top(self, n: int | None = None) -> Spot | list[Spot]:
        """The place with the largest mean effect over pairs, whatever its sign: its site, and "pos" and "head".

        `n`: a list of so many places, the largest first. Raises UserError for an `n` that is no number from 1 on.
        """
        if n is not None and (not hasattr(n, "__index__") or n < 1):
            raise UserError(f"top({n!r:.40}); expected how many places, 1 or more, or nothing for the largest alone")
        spots = [self._spot(cell) for cell in self._order()[: n or 1]]
        return spots[0] if n is None else spots

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """One row a place, means over pairs: the table of a finding, or of a figure of `interp.figures`."""
        effect, share = self.effect.nanmean(0).flatten(), self.share.nanmean(0).flatten()
        return [
            {**spot, "layer": layer_of(str(spot["site"])), "effect": float(effect[cell]), "share": float(share[cell])}
            for cell in sorted(self._order())
            for spot in [self._spot(cell)]
        ]

    def _order(self) -> list[int]:
        """Numbers of all cells that some pair has, that of the largest mean effect first."""
        size = self.effect.nanmean(0).abs().nan_to_num(-1.0).flatten()
        return size.argsort(descending=True, stable=True)[: max(1, int((size >= 0).sum()))].tolist()

    def _spot(self, cell: int) -> Spot:
        site, *rest = (int(i) for i in torch.unravel_index(torch.tensor(cell), self.effect.shape[1:]))
        where = dict(zip(self.by, rest, strict=True))
        if "pos" in where:
            where["pos"] = self.positions[where["pos"]]
        return {"site": self.sites[site], **where}


@looks_once
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
    progress: Progress = silent,
) -> Sweep:
    """Patch every place of `sites` in turn, the source run's values into the corrupt run.

    `source` are the clean prompts, or unrelated ones as a control; pair by pair they need the same number of tokens.
    `by`: each position by itself, each head by itself, both, or none of it (a site as a whole). At an attention pattern
    a position is a query: its row of attention is patched. `positions`: all by
    default; negative ones count from the end. A sweep costs what its forwards cost: one row a pair and place, of the
    tokens from that place on, where those before it can be read once. A place before the first token in which a pair
    differs moves nothing, and is not run.
    Raises UserError when a source and a corrupt prompt differ in length, with both layouts, and for heads where a site
    has none.
    """
    pairs = pair_up(model, source, corrupt)
    names = model.tree.match(sites)
    whole = observe(model, pairs.source, names, metric, batch_size=batch_size)
    acts = whole.acts
    grid = _grid(pairs, acts, by, positions)
    base = model.measure(pairs.corrupt, metric, batch_size=batch_size).cpu()
    effect = torch.full((len(pairs.source), len(names), *map(len, grid.axes)), torch.nan)
    cells = []
    for cell in grid.cells:
        if not model.is_edited and is_the_same(pairs.source[cell.pair], pairs.corrupt[cell.pair], cell):
            effect[cell.pair, :, *cell.index] = 0.0
        else:
            cells.append(cell)
    done, total = 0, len(names) * len(cells)
    for some in in_batches(cells, pairs.corrupt, batch_size):
        runs = Runs(model, pairs.corrupt, some, names, metric)
        for i, name in enumerate(names):
            values = runs.patched(name, acts[name], acts.axes[name])
            for cell, value in zip(some, values.tolist(), strict=True):
                effect[cell.pair, i, *cell.index] = value - base[cell.pair]
            done += len(some)
            progress("patching", done, total)
    return Sweep(effect, tuple(names), tuple(by), grid.positions, whole.values.cpu(), base)


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
    Raises UserError as `patch_sweep` does, and for a site that the metric does not depend on.
    """
    pairs = pair_up(model, source, corrupt)
    slopes = gradients_of(model, pairs.corrupt, sites, metric, batch_size=batch_size)
    names = list(slopes.gradients)
    whole = observe(model, pairs.source, names, metric, batch_size=batch_size)
    acts = whole.acts
    grid = _grid(pairs, acts, by, positions)
    effect = torch.full((len(pairs.source), len(names), *map(len, grid.axes)), torch.nan)
    for i, name in enumerate(names):
        here, there = slopes.acts[name], acts[name]
        moved = torch.where(there == here, 0.0, there - here)  # what is masked is -inf in both, and does not move
        moved = (moved * slopes.gradients[name]).float().cpu()
        for cell in grid.cells:
            place = place_of(acts.axes[name], len(pairs.source[cell.pair]), cell)
            effect[cell.pair, i, *cell.index] = moved[(cell.pair, *place)].sum()
    return Sweep(effect, tuple(names), tuple(by), grid.positions, whole.values.cpu(), slopes.values.cpu())


def correlation(estimated: Sweep, measured: Sweep) -> float:
    """Pearson's correlation over all places and pairs of two sweeps. Raises UserError for sweeps of other places."""
    places = [(s.sites, s.by, s.positions, s.effect.shape) for s in (estimated, measured)]
    if places[0] != places[1]:
        raise UserError("the two sweeps are of other places; run both with the same sites, by and positions")
    a, b = (effects.effect.flatten().cpu().double() for effects in (estimated, measured))
    both = a.isfinite() & b.isfinite()
    return float(torch.corrcoef(torch.stack([a[both], b[both]]))[0, 1])


@dataclass(frozen=True)
class Pairs:
    """Token ids of source and corrupt prompts, pair by pair of one length."""

    source: list[list[int]]
    corrupt: list[list[int]]


@dataclass(frozen=True)
class _Grid:
    axes: tuple[range, ...]
    positions: tuple[int, ...]
    cells: list[Cell]


def pair_up(model: Model, source: Prompts, corrupt: Prompts) -> Pairs:
    """Token ids of both. Raises UserError, with both layouts, where a pair differs in length."""
    pairs = Pairs(model.encode(source), model.encode(corrupt))
    if len(pairs.source) != len(pairs.corrupt):
        raise UserError(f"{len(pairs.source)} source and {len(pairs.corrupt)} corrupt prompts came; expected pairs")
    for a, b in zip(pairs.source, pairs.corrupt, strict=True):
        if len(a) != len(b):
            left, right = ("|".join(model.vocabulary[t] for t in ids) for ids in (a, b))
            raise UserError(
                f"patching needs prompts of one length: {left!r} has {len(a)} tokens, {right!r} has {len(b)}"
            )
    return pairs


def _grid(pairs: Pairs, acts: Activations, by: Sequence[By], positions: Sequence[int] | None) -> _Grid:
    """Every place of every pair. Raises UserError for axes that a site has not, and positions that no pair has."""
    if isinstance(by, str) or set(by) - {"pos", "head"} or len(set(by)) != len(by):
        raise UserError(f"by={by!r}; expected (), ('pos',), ('head',), ('pos', 'head') or ('head', 'pos')")
    heads = {0}
    for name in acts:
        axes = acts.axes[name]
        if axes[0] != "prompt" or "pos" not in axes or ("head" in by and "head" not in axes):
            wanted = "one activation a token and head" if "head" in by else "one activation a token"
            raise UserError(f"site {name!r} has the axes {', '.join(axes)}; expected {wanted}, or an attention pattern")
    if "head" in by:
        heads = {acts[name].shape[acts.axes[name].index("head")] for name in acts}
    if len(heads) > 1:
        raise UserError(f"the sites have {sorted(heads)} heads; sweep those of one number of heads at a time")
    longest = max(map(len, pairs.source))
    if positions is not None and not (
        isinstance(positions, Iterable) and all(hasattr(p, "__index__") for p in positions)
    ):
        raise UserError(f"positions={positions!r}; expected several positions, such as [0, -1]")
    wanted = list(range(longest)) if positions is None else [int(p) for p in positions]
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
            cells.append(Cell(i, index, None if pos is None else pos % len(ids), where.get("head")))
    return _Grid(axes, tuple(wanted), cells)
