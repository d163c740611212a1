"""TopK: the k largest pre-activations of every token fire. Gao et al. 2406.04093.

Latents are chosen by pre-activation times decoder norm, as sae-lens trains them. What the decoder reads is divided by
that norm again: no gradient reaches the norms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from interp.saes.training.architectures.base import (
    Architecture,
    Batch,
    Step,
    Tensors,
    encoder_gradients,
    reconstruct,
    scaled_encoder,
    total,
)
from interp.saes.training.architectures.revival import aux_k
from interp.saes.training.sparse_codes import Pairs


@dataclass(frozen=True)
class TopK:
    """Settings of a TopK SAE."""

    k: int = 32
    """Features active at each token."""
    aux_loss_coefficient: float = 1.0
    """Weight of the loss that brings dead features back: they reconstruct what the living ones leave."""


def topk_step(weights: Tensors, buffers: Tensors, batch: Batch, settings: TopK) -> Step:
    """Loss and gradients on a batch."""
    scaled, norm = scaled_encoder(weights)
    inputs = batch.inputs(weights)
    code = batch.encoder.top_k(inputs, scaled, settings.k, batch.asked)
    return step_of_chosen(replace(code, pre=code.pre / norm[code.feature]), inputs, weights, batch, settings)


def step_of_chosen(code: Pairs, inputs: Tensor, weights: Tensors, batch: Batch, settings: TopK) -> Step:
    """Loss and gradients once the latents are chosen; the pre-activations of those that count are above zero."""
    values = code.keep(code.pre)
    fit = reconstruct(code, values, weights, batch)
    aux_loss, aux_gradients = aux_k(weights, inputs, fit.error, batch, settings.aux_loss_coefficient)
    gradients = total(
        {"W_dec": fit.to_decoder(code, values), "b_dec": fit.to_bias()},
        encoder_gradients(code, fit.to_values, inputs, weights, batch),
        aux_gradients,
    )
    losses = {"mse_loss": fit.loss, "auxiliary_reconstruction_loss": aux_loss}
    return Step(losses, gradients, code, values, fit.error)


ARCHITECTURE = Architecture(
    name="topk",
    settings=TopK,
    step=topk_step,
    per_feature=lambda settings: {"b_enc": 0.0},
    revives="aux-k",
    matrices=6,
    paper="Gao et al. 2024, arXiv:2406.04093",
)
