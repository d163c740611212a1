"""Which features fire together, which point the same way, and what the unembedding reads in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp.features.firings import Firings
from interp.features.statistics import first_by
from interp.model.model import Model
from interp.model.plain import plain_module
from interp.model.read_out import read_norm
from interp.model.sites import layer_of

COUNTS_AT_ONCE = 1 << 26  # counters of pairs of features: 256 MB
ROWS_AT_ONCE = 1 << 16
LOGITS_AT_ONCE = 1 << 24
Tell = Callable[[int, int], None]


def count_together(firings: Firings, rows_in: list[int], n: int, total: int, tell: Tell) -> dict[str, NDArray[Any]]:
    """The `n` features that fire most with each, by the correlation (phi) of the two firings over `total` rows.

    `rows_in`: the rows of each piece. A feature's co-firings are counted while its counters fit the cache.
    """
    d_sae, counts = firings.d_sae, firings.counts
    size = max(1, COUNTS_AT_ONCE // d_sae)
    groups = _groups(rows_in)
    out = {
        "with_feature": np.full((d_sae, n), -1, np.int32),
        "with_count": np.zeros((d_sae, n), np.int32),
        "with_phi": np.full((d_sae, n), np.nan, np.float32),
    }
    for first in range(0, d_sae, size):
        stop = min(d_sae, first + size)
        together = np.zeros((stop - first, d_sae), np.int32)
        for done, pieces in enumerate(groups):
            starts, feature = firings.by_row(pieces)
            _add(together, first, starts, feature)
            tell(first + (stop - first) * (done + 1) // len(groups), d_sae)
        phi = _phi(together, counts[first:stop], counts, total)
        phi[np.arange(len(phi)), np.arange(first, stop)] = -np.inf
        phi[together == 0] = -np.inf
        best = first_by(phi, n)
        there = best >= 0
        out["with_feature"][first:stop] = best
        out["with_count"][first:stop] = np.where(there, np.take_along_axis(together, best.clip(0), 1), 0)
        out["with_phi"][first:stop] = np.where(there, np.take_along_axis(phi, best.clip(0), 1), np.nan)
    return out


def _groups(rows_in: list[int]) -> list[list[int]]:
    groups: list[list[int]] = [[]]
    held = 0
    for piece, rows in enumerate(rows_in):
        if held and held + rows > ROWS_AT_ONCE:
            groups.append([])
            held = 0
        groups[-1].append(piece)
        held += rows
    return groups


def _add(together: NDArray[np.int32], first: int, starts: NDArray[np.int64], feature: NDArray[np.int32]) -> None:
    """Add the co-firings of some rows: for each feature, the features of the rows on which it fires."""
    d_sae, lengths = together.shape[1], np.diff(starts)
    widest = int(lengths.max(initial=0))
    if widest == 0:
        return
    row = np.repeat(np.arange(len(lengths)), lengths)
    # a rectangle where rows are alike (a top k), and its unused cells go to a counter that nobody reads
    table = np.full((len(lengths), widest), d_sae, np.int64)
    table[row, np.arange(len(feature)) - starts[row]] = feature
    inside = (feature >= first) & (feature < first + len(together))
    order = np.argsort(feature[inside], kind="stable")
    by_feature, rows = feature[inside][order], row[inside][order]
    edges = np.searchsorted(by_feature, np.arange(first, first + len(together) + 1))
    for i in range(len(together)):
        some = rows[edges[i] : edges[i + 1]]
        if len(some):
            together[i] += np.bincount(table[some].ravel(), minlength=d_sae + 1)[:d_sae].astype(np.int32)


def _phi(
    together: NDArray[np.int32], ours: NDArray[np.int64], theirs: NDArray[np.int64], n: int
) -> NDArray[np.float64]:
    """Correlation of two yes-or-no columns; the product of two roots, so that no matrix is divided or rooted."""

    def spread(counts: NDArray[np.int64]) -> NDArray[Any]:
        variance = counts * (n - counts.astype(np.float64))
        return np.where(variance > 0, 1 / np.sqrt(np.maximum(variance, 1)), 0.0)

    found = together.astype(np.float64)
    found *= n
    found -= ours[:, None].astype(np.float64) * theirs
    found *= spread(ours)[:, None]
    found *= spread(theirs)
    return found


def find_near(directions: Float[Tensor, "d_sae d"], n: int) -> dict[str, NDArray[Any]]:
    """The `n` features whose directions have the largest cosine with each one's own."""
    unit = directions.float().cpu()
    unit = unit / unit.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    size = max(1, LOGITS_AT_ONCE // len(unit))
    features, cosines = [], []
    for first in range(0, len(unit), size):
        block = unit[first : first + size] @ unit.T
        block[torch.arange(len(block)), torch.arange(first, first + len(block))] = -torch.inf
        scores = block.numpy()
        best = first_by(scores, n)
        features.append(best)
        cosines.append(np.where(best >= 0, np.take_along_axis(scores, best.clip(0), 1), np.nan))
    return {
        "near_feature": np.concatenate(features).astype(np.int32),
        "near_cosine": np.concatenate(cosines).astype(np.float32),
    }


@torch.no_grad()
def read_logits_of(model: Model, site: str, directions: Float[Tensor, "d_sae d"], n: int) -> dict[str, NDArray[Any]]:
    """The tokens whose logits each direction, at unit length, raises and lowers most: direct effects.

    The final norm's weights are in it, its scale is not; the mean over the vocabulary is taken out, for it changes no
    probability. All -1 for a site that does not write to the residual stream.
    """
    written = _written(model, site, directions)
    head = model.hf.get_output_embeddings()
    d_sae = len(directions)
    found = {f"{way}_token": np.full((d_sae, n), -1, np.int32) for way in ("up", "down")}
    found |= {f"{way}_logit": np.full((d_sae, n), np.nan, np.float32) for way in ("up", "down")}
    norm = plain_module(model, "ln_final")
    if written is None or head is None or norm is None:
        return found
    weight, _, centres = read_norm(norm, next(model.hf.get_input_embeddings().parameters())[0].detach())
    unit = written / written.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    unit = unit - unit.mean(-1, keepdim=True) if centres else unit
    unembedding = head.weight.detach()[: len(model.tokenizer)].float()
    unembedding = (unembedding - unembedding.mean(0)) * weight.float()
    size = max(1, LOGITS_AT_ONCE // len(unembedding))
    for first in range(0, d_sae, size):
        logits = unit[first : first + size].to(unembedding) @ unembedding.T
        for way, sign in (("up", 1), ("down", -1)):
            values, tokens = (sign * logits).topk(min(n, logits.shape[1]), dim=1)
            some = slice(first, first + len(values)), slice(0, values.shape[1])
            found[f"{way}_token"][some] = tokens.cpu().numpy()
            found[f"{way}_logit"][some] = (sign * values).float().cpu().numpy()
    return found


def _written(model: Model, site: str, directions: Tensor) -> Tensor | None:
    """What the directions are in the residual stream; None where they are none of it."""
    directions = directions.float().to(model.device)
    last = site.rpartition(".")[2]
    if last.startswith("hook_resid") or last in ("hook_attn_out", "hook_mlp_out"):
        return directions
    if site.endswith("mlp.hook_post"):
        module = plain_module(model, f"blocks.{layer_of(site)}.mlp.out")
        if module is not None:
            x = directions.to(model.hf.dtype)
            return (module(x) - module(torch.zeros_like(x[:1]))).float()
    return None
