"""What a dictionary makes of activations, sparsely: which features fire on which row, how strongly, what is missed.

The architectures whose code is a top k or a threshold go through the encoder that training uses, one dense product
and no matrix [row, d_sae]; every other one through its own `encode`. Which way is taken is decided by trying both on
the first rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.saes.loading.sae import BLOCK, SAE
from interp.saes.training.encoder import Weights, choose_precision, encoder_on
from interp.saes.training.sparse_codes import Grid, Pairs, from_flat

CLOSE = 1e-4  # of the largest number: how far the short way may be from the SAE's own


@dataclass(frozen=True)
class Coded:
    """Rows as a dictionary sees them: the firings, and per row the norm of what it misses."""

    pairs: Pairs
    error: Float[Tensor, " row"]


@dataclass(frozen=True)
class _Short:
    """The short way: an encoder, and where an activation counts, among the `k` largest or above its `floor`."""

    weights: Weights
    floor: Float[Tensor, " d_sae"]
    k: int | None


class Coder:
    """Codes rows with one SAE. `directions` [d_sae, d_in]: what an activation of 1 adds to the reconstruction."""

    def __init__(self, sae: SAE[Any], sample: Float[Tensor, "row d_in"]) -> None:
        self.sae, self.encoder = sae, encoder_on(sae.device, choose_precision("auto", sae.device))
        self.directions: Tensor = sae.W_dec.detach()
        self._short = _short_way(sae)
        if self._short is not None:
            if (scale := self._short.weights.scale) is not None:
                self.directions = self.directions / scale[:, None]
            if not self._agrees(sample[:BLOCK].to(sae.device, sae.dtype)):
                self._short, self.directions = None, sae.W_dec.detach()

    @torch.no_grad()
    def _agrees(self, x: Tensor) -> bool:
        """Does the short way give the SAE's own features and reconstruction here?"""
        ours, theirs = self(x), self.sae.encode(x)
        dense = torch.zeros_like(theirs)
        dense[ours.pairs.row.long(), ours.pairs.feature.long()] = ours.pairs.pre.to(dense)
        rest = (x - self.sae.decode(theirs)).norm(dim=1).cpu()
        near = float((dense - theirs).abs().max()) <= CLOSE * float(theirs.abs().max())
        return near and torch.allclose(ours.error, rest, rtol=1e-3, atol=CLOSE * float(x.norm(dim=1).max()))

    @torch.no_grad()
    def __call__(self, rows: Float[Tensor, "row d_in"]) -> Coded:
        """Code rows, however many; firings stand in the order of rows."""
        parts = [self._block(block.to(self.sae.device, self.sae.dtype)) for block in rows.split(BLOCK)]
        starts = [torch.zeros(1, dtype=torch.int32)]
        for part in parts:
            starts.append(part.pairs.starts[1:].cpu() + starts[-1][-1])
        pairs = Pairs(
            torch.cat(starts),
            torch.cat([part.pairs.feature.cpu() for part in parts]),
            torch.cat([part.pairs.pre.float().cpu() for part in parts]),
            self.sae.cfg.d_sae,
        )
        return Coded(pairs, torch.cat([part.error.float().cpu() for part in parts]))

    def _block(self, x: Tensor) -> Coded:
        short = self._short
        if short is None:
            features = self.sae.encode(x)
            rest = (x - self.sae.decode(features)).norm(dim=1)
            return Coded(_pairs_of(features), rest)
        inside = x - self.sae.b_dec * self.sae.cfg.apply_b_dec_to_input
        if short.k is not None:
            pairs = self.encoder.top_k(inside, short.weights, short.k).counting()
        else:
            code = self.encoder.above(inside, short.weights, short.floor)
            pairs = _pairs_of(code.pre * code.mask) if isinstance(code, Grid) else code.counting()
        return Coded(pairs, (x - pairs.decode(pairs.pre, self.directions) - self.sae.b_dec).norm(dim=1))

    @torch.no_grad()
    def contribution(
        self, rows: Float[Tensor, "pair d_in"], feature: Tensor, value: Tensor
    ) -> Float[Tensor, "pair d_in"]:
        """What each feature, at that activation, adds to the reconstruction of its row."""
        if self._short is not None:
            return value[:, None] * self.directions[feature]
        out = []
        for x, f, v in zip(rows.split(BLOCK), feature.split(BLOCK), value.split(BLOCK), strict=True):
            x = x.to(self.sae.device, self.sae.dtype)
            zeros = torch.zeros(len(x), self.sae.cfg.d_sae, dtype=x.dtype, device=x.device)
            alone = zeros.scatter(1, f[:, None].to(x.device), v[:, None].to(x))
            parts = []
            for features in (alone, zeros):
                self.sae.encode(x)  # an SAE that normalises keeps what its decoder undoes, and once
                parts.append(self.sae.decode(features))
            out.append(parts[0] - parts[1])
        return torch.cat(out)


def _short_way(sae: SAE[Any]) -> _Short | None:
    """How an SAE may be coded without its own `encode`; None where that is not known."""
    cfg = sae.cfg
    kind, plain = cfg.architecture(), cfg.normalize_activations == "none" and cfg.reshape_activations == "none"
    if kind not in ("topk", "jumprelu", "standard") or not plain or sae.dtype != torch.float32:
        return None
    tensors = {name: tensor.detach() for name, tensor in sae.named_parameters()}
    b_enc = tensors["b_enc"]
    scale = tensors["W_dec"].norm(dim=-1) if getattr(cfg, "rescale_acts_by_decoder_norm", False) else None
    weights = Weights(tensors["W_enc"].T.contiguous(), b_enc, scale)
    floor = tensors["threshold"].clamp(min=0) if kind == "jumprelu" else torch.zeros_like(b_enc)
    return _Short(weights, floor, int(cfg.k) if kind == "topk" else None)


def _pairs_of(features: Float[Tensor, "row d_sae"]) -> Pairs:
    flat = (features > 0).flatten().nonzero().flatten()
    return from_flat(flat, features.flatten()[flat], *features.shape)
