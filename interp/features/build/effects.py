"""What a feature does to the model's loss: it is taken away at one token, and the loss there is measured again.

Only that token changes, so only that token is run again, on top of what attention kept of those before it; all the
ablations of a sequence go through the model side by side, each seeing the tokens before its own and no other ablation.
Beside each goes a random direction of the same length: any change of the activation costs something.

The model is asked beforehand whether that way gives a plain forward's logits. Where it does not (a model without a
cache, or whose attention does not take such a mask at this length), every ablation runs its whole sequence: slower, and
right for any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.activations.share import claimed, free_pieces
from interp.activations.tensor_file import note_of, read_tensors, write_tensors
from interp.features.build.coder import Coder
from interp.features.build.inputs import Building
from interp.features.build.statistics import Ints, priority
from interp.model.hooks.caches import reads_side_by_side, side_by_side
from interp.model.hooks.forward import forward
from interp.model.hooks.tokens import Tokens
from interp.model.model import Model
from interp.saes.loading.sae import site_of
from interp.stats.intervals import intervals_of_groups

PIECES = "effects-*.safetensors"
SEQUENCES = 16  # of a piece: what a kill can cost
AT_ONCE = 256  # ablations of one forward
LOGITS_AT_ONCE = 1 << 25  # numbers: 128 MB
ERRORS = 2  # rows of a sequence at which the error is taken away
SEED = 0


def choose_firings(feature: int, rows: Ints, starts: Ints, n: int) -> Ints:
    """Which of a feature's firings (`rows`) to ablate, `n` at most: places in `rows`.

    Sequences are taken in one random order, the same for all features, so that few are run. The last token of a
    sequence has no next one and is left out.
    """
    if n == 0:
        return np.empty(0, np.int64)
    sequence = np.searchsorted(starts, rows, side="right") - 1
    inside = np.flatnonzero(rows + 1 < starts[sequence + 1])
    order = np.lexsort((priority(rows[inside], feature), priority(sequence[inside], -1)))
    return inside[order[:n]]


class Ablation(NamedTuple):
    """A firing that is taken away."""

    feature: int
    row: int
    value: float


class Chosen(NamedTuple):
    """All firings that are to be taken away, in any order."""

    feature: NDArray[np.int32]
    row: NDArray[np.int32]
    value: NDArray[np.float32]


@dataclass(frozen=True)
class Effects:
    """Rise of the loss in nats for each ablation, for a random direction in its place, and where the error is gone."""

    feature: NDArray[np.int64]
    rise: NDArray[np.float32]
    random: NDArray[np.float32]
    error: NDArray[np.float32]


def measure_effects(building: Building, coder: Coder, chosen: Chosen) -> Effects | None:
    """Ablate all `chosen`, piece by piece; pieces that are there are used, and those in another's hand waited for.

    None when it was stopped. Raises UserError while an edit is active.
    """
    building.model.check_plain("measuring effects")
    groups = _groups(chosen, building.tokens.starts)
    run: _Run | None = None
    for number in free_pieces(
        range(len(groups)),
        lambda i: effects_path(building.folder, i),
        lambda i: _is_there(building, i),
        wait=True,
        stop=building.stop,
    ):
        run = run or _Run(building.model, coder, int(np.diff(building.tokens.starts).max()))
        path = effects_path(building.folder, number)
        with claimed(path):
            parts = [_of_sequence(run, building, *one) for one in groups[number]]
            piece = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            write_tensors(path, piece, _note(building, number))
        building.progress("ablating features", number + 1, len(groups))
    if not all(_is_there(building, i) for i in range(len(groups))):
        return None
    pieces = [read_tensors(effects_path(building.folder, i))[0] for i in range(len(groups))]
    joined = {name: torch.cat([piece[name] for piece in pieces]).numpy() for name in pieces[0]} if pieces else {}
    empty = np.empty(0, np.float32)
    return Effects(
        joined.get("feature", np.empty(0, np.int64)), *(joined.get(name, empty) for name in ("rise", "random", "error"))
    )


def _groups(chosen: Chosen, starts: Ints) -> list[list[tuple[int, list[Ablation]]]]:
    """Sequences with their ablations, in the groups of which each is a piece."""
    order = np.lexsort((chosen.feature, chosen.row))
    rows = chosen.row[order]
    sequences, firsts = np.unique(np.searchsorted(starts, rows, side="right") - 1, return_index=True)
    ends = [*firsts[1:].tolist(), len(rows)]
    each = [
        (int(sequence), [Ablation(*one) for one in zip(*(of[order[a:b]].tolist() for of in chosen), strict=True)])
        for sequence, a, b in zip(sequences, firsts, ends, strict=True)
    ]
    return [each[i : i + SEQUENCES] for i in range(0, len(each), SEQUENCES)]


def effects_path(folder: Path, number: int) -> Path:
    """Where the ablations of some sequences lie."""
    return folder / f"effects-{number:05d}.safetensors"


def _note(building: Building, number: int) -> dict[str, Any]:
    return {"plan": building.plan.hash, "piece": number}


def _is_there(building: Building, number: int) -> bool:
    return note_of(effects_path(building.folder, number)) == _note(building, number)


def _of_sequence(run: _Run, building: Building, sequence: int, ablations: Sequence[Ablation]) -> dict[str, Tensor]:
    """The effects of one sequence's ablations, whose rows are counted from its first."""
    tokens = building.tokens
    first, last = int(tokens.starts[sequence]), int(tokens.starts[sequence + 1])
    ids = torch.from_numpy(tokens.ids[first:last].astype(np.int64)).to(run.model.device)
    with run.model.tree.settled():
        return run.sequence(ids, [a._replace(row=a.row - first) for a in ablations], sequence)


class _Run:
    """Runs the tokens of a sequence again, each with its change."""

    def __init__(self, model: Model, coder: Coder, longest: int) -> None:
        self.model, self.coder, self.site = model, coder, site_of(coder.sae)
        # asked at the length of the longest sequence: it may leave a window of the model's own that shorter ones fill
        self.shares_past = reads_side_by_side(model.tree, self.site, longest)

    @torch.no_grad()
    def sequence(self, ids: Tensor, ablations: Sequence[Ablation], number: int) -> dict[str, Tensor]:
        """The rise of the loss for every ablation of a sequence, for as many random directions, and for the error."""
        device = self.model.device
        seen: list[Tensor] = []
        watch = {self.site: lambda value: seen.append(value[0].clone())}
        batch = Tokens.full(ids[None])
        cache = forward(self.model.tree, batch, watch=watch, keep=1, use_cache=self.shares_past).cache
        x = seen[0]
        at = torch.tensor([a.row for a in ablations], device=device)
        feature = torch.tensor([a.feature for a in ablations], device=device)
        value = torch.tensor([a.value for a in ablations], device=device)
        away = self.coder.contribution(x[at].to(self.coder.directions), feature, value).to(x)
        random = torch.randn(away.shape, generator=torch.Generator().manual_seed(SEED + number)).to(x)
        random = random / random.norm(dim=1, keepdim=True) * away.norm(dim=1, keepdim=True)
        error_rows = self._error_rows(len(ids), number).to(device)
        missed = self._missed(x[error_rows])
        where, clean = torch.unique(torch.cat([at, error_rows]), return_inverse=True)
        rows = torch.cat([where, at, at, error_rows])
        change = torch.cat([torch.zeros(len(where), x.shape[1]).to(x), -away, -random, -missed])
        loss = self._losses(ids, cache if self.shares_past else None, rows, change)
        base, rise, by_chance, error = loss.split([len(where), len(at), len(at), len(error_rows)])
        before = base[clean].split([len(at), len(error_rows)])
        return {
            "feature": feature.cpu(),
            "rise": (rise - before[0]).cpu(),
            "random": (by_chance - before[0]).cpu(),
            "error": (error - before[1]).cpu(),
        }

    def _error_rows(self, length: int, number: int) -> Tensor:
        rows = np.arange(1, length - 1)
        return torch.from_numpy(np.sort(rows[np.argsort(priority(rows, number), kind="stable")[:ERRORS]]))

    def _missed(self, x: Tensor) -> Tensor:
        sae = self.coder.sae
        rows = x.to(sae.device, sae.dtype)
        return (rows - sae.decode(sae.encode(rows))).to(x)

    def _losses(self, ids: Tensor, cache: Any, rows: Tensor, change: Tensor) -> Float[Tensor, " change"]:
        size = AT_ONCE if cache is not None else max(1, LOGITS_AT_ONCE // (len(ids) * self.model.config.vocab_size))
        losses = []
        for part, by in zip(rows.split(size), change.split(size), strict=True):
            logits = self._alone(ids, part, by) if cache is None else self._again(ids, cache, part, by)
            losses.append(cross_entropy(logits.float(), ids[part + 1], reduction="none"))
        return torch.cat(losses)

    def _again(self, ids: Tensor, cache: Any, rows: Tensor, change: Tensor) -> Float[Tensor, "row d_vocab"]:
        """Logits of the tokens at `rows`, with `change` added at the site; each sees those before it and itself."""
        change_here = {self.site: lambda value: value + change[None]}
        logits = forward(self.model.tree, side_by_side(ids, rows), change=change_here, cache=cache).logits[0]
        cache.crop(-len(rows))
        return logits

    def _alone(self, ids: Tensor, rows: Tensor, change: Tensor) -> Float[Tensor, "row d_vocab"]:
        """The same, the whole sequence once for every change."""
        copies = torch.arange(len(rows), device=ids.device)

        def edit(value: Tensor) -> Tensor:
            value = value.clone()
            value[copies, rows] += change
            return value

        batch = Tokens.full(ids.expand(len(rows), -1))
        return forward(self.model.tree, batch, change={self.site: edit}).logits[copies, rows]


def summarise_effects(effects: Effects, d_sae: int) -> dict[str, NDArray[Any]]:
    """Mean and 95 % interval over a feature's ablations, the mean of the random directions, how many; NaN for none."""
    n = np.bincount(effects.feature, minlength=d_sae)
    mean, low, high = intervals_of_groups(effects.feature, effects.rise, n)
    with np.errstate(invalid="ignore"):
        random = np.bincount(effects.feature, effects.random.astype(np.float64), minlength=d_sae) / n
    one_group = np.zeros(len(effects.error), np.int64)
    error = np.array(intervals_of_groups(one_group, effects.error, np.array([len(effects.error)])))
    return {
        "effect": np.stack([mean, low, high], 1).astype(np.float32),
        "effect_random": random.astype(np.float32),
        "effect_n": n.astype(np.int32),
        "error_effect": error[:, 0].astype(np.float32),
    }
