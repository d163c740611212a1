"""Standard: a ReLU and an L1 penalty, each latent's weighted by the length of its direction. Bricken et al. 2023, with
the penalty of Anthropic's update of April 2024."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from interp.saes.training.architectures.base import (
    Architecture,
    Batch,
    Step,
    Tensors,
    along_norm,
    decoder_norm,
    encoder_gradients,
    encoder_weights,
    reconstruct,
    total,
)


@dataclass(frozen=True)
class Standard:
    """Settings of a ReLU SAE with an L1 penalty."""

    l1_coefficient: float = 1.0
    """Weight of the penalty: larger, fewer features active."""


def standard_step(weights: Tensors, buffers: Tensors, batch: Batch, settings: Standard) -> Step:
    """Loss and gradients on a batch."""
    inputs, norm = batch.inputs(weights), decoder_norm(weights)
    code = batch.encoder.above(inputs, encoder_weights(weights), torch.zeros_like(weights["b_enc"]), batch.asked)
    values = code.keep(code.pre)
    fit = reconstruct(code, values, weights, batch)
    weight = batch.warm * settings.l1_coefficient / batch.rows
    summed = code.per_feature(values)
    to_pre = fit.to_values + code.keep(code.of_feature(weight * norm))
    gradients = total(
        {"W_dec": fit.to_decoder(code, values) + along_norm(weights, weight * summed), "b_dec": fit.to_bias()},
        encoder_gradients(code, to_pre, inputs, weights, batch),
    )
    losses = {"mse_loss": fit.loss, "l1_loss": weight * (summed * norm).sum()}
    return Step(losses, gradients, code, values, fit.error)


ARCHITECTURE = Architecture(
    name="standard",
    settings=Standard,
    step=standard_step,
    per_feature=lambda settings: {"b_enc": 0.0},
    transcodes="transcoder",
    revives="resampling",
    matrices=7,
    paper="Bricken et al. 2023, Towards Monosemanticity",
)
