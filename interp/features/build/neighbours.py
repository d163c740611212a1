"""Which features point the same way, and what the unembedding reads in them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.features.read.ranking import first_by
from interp.model.final_norm import read_norm
from interp.model.hooks.plain import output_of, plain_module
from interp.model.hooks.sites import layer_of
from interp.model.model import Model
from interp.saes.training.encoder import choose_precision
from interp.saes.training.encoder.precision import summed_in_fp32

LOGITS_AT_ONCE = 1 << 24
CANDIDATES = 4  # times as many as are wanted
ROUNDING = 2.0**-7  # of a bfloat16 that a product is rounded to, relative, and of the sums before it


class Ranked(NamedTuple):
    """Products in order, and the columns they stand in."""

    values: Float[Tensor, "row n"]
    columns: Int[Tensor, "row n"]


def find_near(unit: Float[Tensor, "d_sae d"], run: range, n: int) -> dict[str, NDArray[Any]]:
    """The `n` features whose directions have the largest cosine with that of each of a run; `unit`: of length 1."""
    size = max(1, LOGITS_AT_ONCE // len(unit))
    features, cosines = [], []
    for first in range(run.start, run.stop, size):
        block = unit[first : min(first + size, run.stop)] @ unit.T
        block[torch.arange(len(block)), torch.arange(first, first + len(block))] = -torch.inf
        scores = block.cpu().numpy()
        best = first_by(scores, n)
        features.append(best)
        cosines.append(np.where(best >= 0, np.take_along_axis(scores, best.clip(0), 1), np.nan))
    return {
        "near_feature": np.concatenate(features).astype(np.int32),
        "near_cosine": np.concatenate(cosines).astype(np.float32),
    }


def at_unit_length(directions: Float[Tensor, "d_sae d"]) -> Float[Tensor, "d_sae d"]:
    """The directions in fp32, each of length 1, or 0."""
    directions = directions.float()
    return directions / directions.norm(dim=-1, keepdim=True).clamp(min=1e-30)


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
