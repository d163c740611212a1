"""Gated: one half of the encoder says whether a latent fires, the other how strongly.

Rajamanoharan et al. 2404.16014. Both halves share their directions: the magnitude's pre-activation is the gate's
without its bias, times exp(r_mag), plus a bias of its own. So one product gives both, where sae-lens makes three. As
there, the loss of the gate's own reconstruction reaches the decoder too.
"""

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
    encoder_weights,
    reconstruct,
    total,
)


@dataclass(frozen=True)
class Gated:
    """Settings of a gated SAE."""

    l1_coefficient: float = 1.0
    """Weight of the penalty on the gates: larger, fewer features active."""


def gated_step(weights: Tensors, buffers: Tensors, batch: Batch, settings: Gated) -> Step:
    """Loss and gradients on a batch."""
    inputs, norm = batch.inputs(weights), decoder_norm(weights)
    code = batch.encoder.above(
        inputs, encoder_weights(weights, "b_gate"), torch.zeros_like(weights["b_gate"]), batch.asked
    )
    gate = code.keep(code.pre)
    scale = code.of_feature(weights["r_mag"].exp())
    plain = gate - code.keep(code.of_feature(weights["b_gate"]))  # x @ W
    magnitude = code.keep(plain * scale + code.of_feature(weights["b_mag"]))
    values = magnitude.clamp(min=0)
    fit, via_gate = (reconstruct(code, some, weights, batch) for some in (values, gate))
    weight = batch.warm * settings.l1_coefficient / batch.rows
    summed = code.per_feature(gate)
    to_magnitude = fit.to_values * (magnitude > 0)
    to_gate = via_gate.to_values + code.keep(code.of_feature(weight * norm))
    to_product = to_gate + to_magnitude * scale
    gate_bias, magnitude_bias = code.per_feature(to_gate), code.per_feature(to_magnitude)
    gradients = total(
        {
            "W_enc": code.outer(to_product, inputs),
            "b_gate": gate_bias,
            "b_mag": magnitude_bias,
            "r_mag": code.per_feature(to_magnitude * plain) * weights["r_mag"].exp(),
            "W_dec": fit.to_decoder(code, values)
            + via_gate.to_decoder(code, gate)
            + along_norm(weights, weight * summed),
            "b_dec": fit.to_bias() + via_gate.to_bias(),
        },
        {"b_dec": -(code.per_feature(to_product) @ weights["W_enc"])} if batch.centred else {},
    )
    losses = {"mse_loss": fit.loss, "l1_loss": weight * (summed * norm).sum()}
    losses["auxiliary_reconstruction_loss"] = via_gate.loss
    return Step(losses, gradients, code, values, fit.error)


ARCHITECTURE = Architecture(
    name="gated",
    settings=Gated,
    step=gated_step,
    per_feature=lambda settings: {"b_gate": 0.0, "b_mag": 0.0, "r_mag": 0.0},
    revives="resampling",
    matrices=11,
    paper="Rajamanoharan et al. 2024, arXiv:2404.16014",
)
