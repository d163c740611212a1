"""Losses that bring back features which no longer fire."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.saes.training.architectures.base import Batch, Tensors, along_norm, decoder_norm, no_loss


def aux_k(
    weights: Tensors,
    inputs: Float[Tensor, "row d_in"],
    error: Float[Tensor, "row d_out"],
    batch: Batch,
    coefficient: float,
) -> tuple[Float[Tensor, ""], Tensors]:
    """Dead features reconstruct what the living ones leave: Gao et al. 2406.04093, A.2, as sae-lens has it.

    What they leave is their `error` turned round.
    At every row the d_in / 2 dead features of largest pre-activation take part (without a ReLU), and the loss is scaled
    down where fewer are dead. Costs a dense product of the dead features alone.
    """
    ids = _dead_ids(batch)
    if not len(ids) or not coefficient:
        return no_loss(error), {}
    W_enc, W_dec, b_enc = weights["W_enc"][ids], weights["W_dec"][ids], weights["b_enc"][ids]
    k = error.shape[1] // 2
    weight = coefficient * min(len(ids) / k, 1.0)
    pre = torch.addmm(b_enc, inputs, W_enc.T)
    if len(ids) > k:
        best = (pre * W_dec.norm(dim=1)).topk(k, sorted=False).indices
        chosen = torch.zeros_like(pre, dtype=torch.bool).scatter_(1, best, True)
    else:
        chosen = torch.ones_like(pre, dtype=torch.bool)
    z = pre * chosen
    difference = z @ W_dec + error
    slope = difference * (2 * weight / batch.rows)
    to_pre = (slope @ W_dec.T) * chosen
    found = {"W_dec": z.T @ slope, "W_enc": to_pre.T @ inputs, "b_enc": to_pre.sum(0)}
    gradients = {name: _spread(weights[name], ids, value) for name, value in found.items()}
    if batch.centred:
        gradients["b_dec"] = -(found["b_enc"] @ W_enc)
    return difference.square().sum() * (weight / batch.rows), gradients


def pre_act(
    weights: Tensors, inputs: Float[Tensor, "row d_in"], batch: Batch, coefficient: float | None
) -> tuple[Float[Tensor, ""], Tensors]:
    """Dead features are drawn up towards their thresholds: Anthropic, January 2025; dead ones alone, as in sae-lens."""
    ids = _dead_ids(batch)
    if not len(ids) or not coefficient:
        return no_loss(inputs), {}
    W_enc, threshold, norm = weights["W_enc"][ids], weights["threshold"][ids], decoder_norm(weights)[ids]
    short = (threshold - torch.addmm(weights["b_enc"][ids], inputs, W_enc.T)).clamp(min=0)
    weight = coefficient / batch.rows
    slope = -(short > 0).to(inputs.dtype) * norm * weight  # at the pre-activations
    summed = slope.sum(0)
    found = {"W_enc": slope.T @ inputs, "b_enc": summed, "threshold": -summed}
    gradients = {name: _spread(weights[name], ids, value) for name, value in found.items()}
    gradients["W_dec"] = along_norm(weights, _spread(weights["b_enc"], ids, short.sum(0) * weight))
    if batch.centred:
        gradients["b_dec"] = -(summed @ W_enc)
    return (short * norm).sum() * weight, gradients


def _dead_ids(batch: Batch) -> Int[Tensor, " dead"]:
    if batch.dead is None or not (n := int(batch.asked["dead"])):
        return torch.empty(0, dtype=torch.long)
    return torch.nonzero_static(batch.dead, size=n).flatten()


def _spread(like: Tensor, ids: Int[Tensor, " dead"], values: Tensor) -> Tensor:
    """Zeros like the whole weight, with the dead features' `values` in their places."""
    return torch.zeros_like(like).index_copy_(0, ids, values)
