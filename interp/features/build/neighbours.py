"""Which features fire together, which point the same way, and what the unembedding reads in them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.features.build.firings import Firings
from interp.features.read.ranking import first_by
from interp.model.final_norm import read_norm
from interp.model.hooks.plain import output_of, plain_module
from interp.model.hooks.sites import layer_of
from interp.model.model import Model
from interp.progress import Progress, silent
from interp.saes.training.encoder import choose_precision
from interp.saes.training.encoder.precision import summed_in_fp32

COUNTS_AT_ONCE = 1 << 26  # counters of pairs of features: 256 MB
ROWS_AT_ONCE = 1 << 16
LOGITS_AT_ONCE = 1 << 24
CANDIDATES = 4  # times as many as are wanted
ROUNDING = 2.0**-7  # of a bfloat16 that a product is rounded to, relative, and of the sums before it


class Ranked(NamedTuple):
    """Products in order, and the columns they stand in."""

    values: Float[Tensor, "row n"]
    columns: Int[Tensor, "row n"]


def count_together(
    firings: Firings, rows_in: list[int], n: int, total: int, progress: Progress = silent
) -> dict[str, NDArray[Any]]:
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
            progress("counting co-firings", first + (stop - first) * (done + 1) // len(groups), d_sae)
        for i, row in enumerate(together):
            row[first + i] = 0
            partners = np.flatnonzero(row)
            phi = _phi(row[partners], int(counts[first + i]), counts[partners], total)
            best = first_by(phi[None], n)[0]
            best = best[best >= 0]
            cells = first + i, slice(0, len(best))
            out["with_feature"][cells], out["with_count"][cells] = partners[best], row[partners[best]]
            out["with_phi"][cells] = phi[best]
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
        fired_at = rows[edges[i] : edges[i + 1]]
        if len(fired_at):
            together[i] += np.bincount(table[fired_at].ravel(), minlength=d_sae + 1)[:d_sae].astype(np.int32)


def _phi(together: NDArray[np.int32], count: int, partners: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Correlation of two yes-or-no columns: a feature that fires `count` times, and partners that fire as often as
    `partners` says."""
    a, b = float(count), partners.astype(np.float64)
    spread = a * (n - a) * b * (n - b)
    return np.where(spread > 0, (n * together - a * b) / np.sqrt(np.maximum(spread, 1.0)), 0.0)


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
    logits = {f"{way}_token": np.full((d_sae, n), -1, np.int32) for way in ("up", "down")}
    logits |= {f"{way}_logit": np.full((d_sae, n), np.nan, np.float32) for way in ("up", "down")}
    norm = plain_module(model.tree, "ln_final")
    if written is None or head is None or norm is None:
        return logits
    weight, _, centres = read_norm(norm, next(model.hf.get_input_embeddings().parameters())[0].detach())
    unit = written / written.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    unit = unit - unit.mean(-1, keepdim=True) if centres else unit
    unembedding = head.weight.detach()[: len(model.tokenizer)].float().to(model.device)
    unembedding = (unembedding - unembedding.mean(0)) * weight.float()
    unit = unit.to(unembedding)
    n = min(n, len(unembedding))
    for way, (values, tokens) in zip(("up", "down"), extreme_products(unit, unembedding, n), strict=True):
        logits[f"{way}_token"][:, :n] = tokens.cpu().numpy()
        logits[f"{way}_logit"][:, :n] = values.cpu().numpy()
    return logits


def extreme_products(
    x: Float[Tensor, "row d"], W: Float[Tensor, "column d"], n: int, *, precision: str = "auto"
) -> tuple[Ranked, Ranked]:
    """The `n` largest of every row of `x @ W.T`, largest first, and the `n` smallest, smallest first; in fp32.

    Where the processor multiplies bfloat16, that product finds candidates, and these are scored again in fp32. It is
    off by |dx| |w| + |x'| |dw| at most, and by its own rounding; a row whose candidates do not reach that far beyond
    its n-th is done again in fp32 (see `interp.saes.training.encoder`, which goes the same way).
    """
    size, many = max(1, LOGITS_AT_ONCE // len(W)), min(CANDIDATES * n, len(W))
    if choose_precision(precision, x.device) == "fp32" or many == len(W):
        both = [_ends(block @ W.T, n) for block in x.split(size)]
        return _joined([largest for largest, _ in both]), _joined([smallest for _, smallest in both])
    low, low_W = x.bfloat16(), W.bfloat16()
    longest, lost = float(W.norm(dim=1).max()), float((W - low_W).norm(dim=1).max())
    parts: tuple[list[Ranked], list[Ranked]] = ([], [])
    sure: list[Tensor] = []
    for rounded, block in zip(low.split(size), x.split(size), strict=True):
        with summed_in_fp32():
            product = rounded @ low_W.T
        off = (block - rounded).norm(dim=1) * longest + rounded.float().norm(dim=1) * lost
        proven = torch.ones_like(off, dtype=torch.bool)
        for part, near, sign in zip(parts, _ends(product, many), (1, -1), strict=True):
            exact = torch.bmm(W[near.columns], block[:, :, None])[..., 0]
            best = exact.topk(n, dim=1, largest=sign > 0)
            beyond = sign * near.values[:, -1].float()
            proven &= sign * best.values[:, -1] >= beyond + ROUNDING * beyond.abs() + off
            part.append(Ranked(best.values, near.columns.gather(1, best.indices)))
        sure.append(proven)
    again = ~torch.cat(sure)
    ends = [_joined(part) for part in parts]
    if bool(again.any()):
        for end, right in zip(ends, extreme_products(x[again], W, n, precision="fp32"), strict=True):
            end.values[again], end.columns[again] = right
    return ends[0], ends[1]


def _ends(products: Float[Tensor, "row column"], n: int) -> tuple[Ranked, Ranked]:
    return Ranked(*products.topk(n, dim=1)), Ranked(*products.topk(n, dim=1, largest=False))


def _joined(parts: list[Ranked]) -> Ranked:
    return Ranked(torch.cat([part.values for part in parts]), torch.cat([part.columns for part in parts]))


def _written(model: Model, site: str, directions: Tensor) -> Tensor | None:
    """What the directions are in the residual stream; None where they are none of it."""
    directions = directions.float().to(model.device)
    last = site.rpartition(".")[2]
    if last.startswith("hook_resid") or last in ("hook_attn_out", "hook_mlp_out"):
        return directions
    if site.endswith("mlp.hook_post"):
        module = plain_module(model.tree, f"blocks.{layer_of(site)}.mlp.out")
        if module is not None:
            x = directions.to(model.hf.dtype)
            return (output_of(module, x) - output_of(module, torch.zeros_like(x[:1]))).float()
    return None
