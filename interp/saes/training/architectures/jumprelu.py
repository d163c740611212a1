"""JumpReLU: a latent fires above a threshold of its own, which is trained too. Rajamanoharan et al. 2407.14435.

A step has no slope, so that a straight-through estimator gives the threshold one: it sees the latents within half a
`bandwidth` of it. Three penalties, as in sae-lens: "step" counts active latents (the paper), "quadratic" holds their
number near a target (Gemma Scope 2), "tanh" is Anthropic's of January 2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from interp.errors import UserError
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
from interp.saes.training.architectures.revival import pre_act
from interp.saes.training.sparse_codes import Code


@dataclass(frozen=True)
class JumpReLU:
    """Settings of a JumpReLU SAE."""

    l0_coefficient: float = 1.0
    """Weight of the penalty: larger, fewer features active."""
    jumprelu_sparsity_loss_mode: Literal["step", "tanh", "quadratic"] = "step"
    """What is penalised: active features ("step"), their distance from `target_l0` ("quadratic"), or "tanh"."""
    target_l0: float | None = None
    """Features active at a token that "quadratic" aims at."""
    jumprelu_init_threshold: float = 0.01
    """Where thresholds begin."""
    jumprelu_bandwidth: float = 0.05
    """Width of the window around a threshold whose activations move it."""
    jumprelu_tanh_scale: float = 4.0
    """Steepness of "tanh"."""
    jumprelu_ste_to_input: bool = False
    """Does the window move the encoder too? Anthropic's does, DeepMind's does not."""
    pre_act_loss_coefficient: float | None = None
    """Weight of the loss that brings dead features back; Anthropic's is 3e-6."""

    def __post_init__(self) -> None:
        if self.jumprelu_sparsity_loss_mode == "quadratic" and not (self.target_l0 and self.target_l0 > 0):
            raise UserError(f"target_l0={self.target_l0}; expected a number above 0 for the quadratic penalty")


def jumprelu_step(weights: Tensors, buffers: Tensors, batch: Batch, settings: JumpReLU) -> Step:
    """Loss and gradients on a batch."""
    weights = weights | {"threshold": weights["threshold"].clamp(min=0)}  # below zero it would let all through
    inputs, norm, threshold = batch.inputs(weights), decoder_norm(weights), weights["threshold"]
    bandwidth = settings.jumprelu_bandwidth
    # the code holds the window below each threshold as well
    code = batch.encoder.above(inputs, encoder_weights(weights), threshold - bandwidth / 2, batch.asked)
    height = code.of_feature(threshold)
    on = code.keep((code.pre > height).to(inputs.dtype))
    window = code.keep((((code.pre - height) / bandwidth).abs() < 0.5).to(inputs.dtype))
    values = code.pre * on
    fit = reconstruct(code, values, weights, batch)
    sparsity, to_count, to_values, to_norm = _penalty(code, on, values, norm, batch, settings)
    to_active = fit.to_values + to_values
    through = window * (height * to_active + to_count) / bandwidth
    to_pre = on * to_active + (through if settings.jumprelu_ste_to_input else 0)
    revival, reviving = pre_act(weights, inputs, batch, settings.pre_act_loss_coefficient)
    gradients = total(
        {"W_dec": fit.to_decoder(code, values), "b_dec": fit.to_bias(), "threshold": -code.per_feature(through)},
        {} if to_norm is None else {"W_dec": along_norm(weights, to_norm)},
        encoder_gradients(code, to_pre, inputs, weights, batch),
        reviving,
    )
    losses = {"mse_loss": fit.loss, "l0_loss": sparsity}
    if settings.pre_act_loss_coefficient is not None:
        losses["pre_act_loss"] = revival
    return Step(losses, gradients, code, values, fit.error)


def _penalty(
    code: Code, on: Tensor, values: Tensor, norm: Tensor, batch: Batch, settings: JumpReLU
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The penalty, and its slopes at each latent's being active, at its value, and at the decoder's norms."""
    weight = batch.warm * settings.l0_coefficient / batch.rows
    none = torch.zeros_like(values)
    if settings.jumprelu_sparsity_loss_mode == "tanh":
        steep = settings.jumprelu_tanh_scale
        lengths = code.of_feature(norm)
        curve = torch.tanh(steep * values * lengths)
        outer = weight * steep * (1 - curve.square())
        return weight * curve.sum(), none, code.keep(outer * lengths), code.per_feature(outer * values)
    active = code.per_row(on)
    if settings.jumprelu_sparsity_loss_mode == "step":
        return weight * active.sum(), torch.full_like(values, weight), none, None
    target = settings.target_l0 or 1.0
    off = active - target
    each = code.of_row(4 / target * off * weight).expand_as(values)
    return (2 / target * off.square()).sum() * weight, each, none, None


def _start(settings: JumpReLU) -> dict[str, float]:
    return {"b_enc": 0.0, "threshold": settings.jumprelu_init_threshold}


ARCHITECTURE = Architecture(
    name="jumprelu",
    settings=JumpReLU,
    step=jumprelu_step,
    per_feature=_start,
    not_below={"threshold": 0.0},
    transcodes="jumprelu_transcoder",
    revives="pre-act loss",
    matrices=11,
    paper="Rajamanoharan et al. 2024, arXiv:2407.14435",
)
