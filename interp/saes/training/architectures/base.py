"""What every architecture's step gets and gives, and the parts of it that are the same for all.

Weights: `W_enc` [d_sae, d_in] (the transpose of SAELens', so that a feature is a row), `W_dec` [d_sae, d_out], `b_dec`
[d_out], and an architecture's own. A loss is a sum over features and dimensions and a mean over the rows of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.saes.training.asked import Asked
from interp.saes.training.encoder import Encoder, Weights
from interp.saes.training.processes import Ranks
from interp.saes.training.sparse_codes import Code

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """The rows of a step.

    `x` is read and `y` is to be reconstructed (the same tensor but for a transcoder). `rows`: how many all ranks have
    together. `dead`: features that have not fired for long. `warm`: from 0 to 1, by which sparsity losses are
    multiplied while they warm up. `centred`: the decoder's bias is taken from x first.
    """

    x: Float[Tensor, "row d_in"]
    y: Float[Tensor, "row d_out"]
    rows: int
    encoder: Encoder
    dead: Bool[Tensor, " d_sae"] | None = None
    asked: Asked = field(default_factory=Asked)
    warm: float = 1.0
    centred: bool = True
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        if self.dead is not None:
            self.asked.want(dead=self.dead.sum())

    def inputs(self, weights: Mapping[str, Tensor]) -> Float[Tensor, "row d_in"]:
        """What the encoder reads."""
        return self.x - weights["b_dec"] if self.centred else self.x


@dataclass(frozen=True)
class Step:
    """What a step gives: losses (sums over this rank's rows, divided by all ranks' rows) and their gradients.

    `code` with `values`: the activations that the decoder read. `error`: the reconstruction less what it is to be.
    `buffers`: new values of what is kept and not trained.
    """

    losses: Tensors
    gradients: Tensors
    code: Code
    values: Tensor
    error: Float[Tensor, "row d_out"]
    buffers: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """An architecture: `settings` is a frozen dataclass of its hyperparameters, `step` its loss and gradients.

    `per_feature`: the weights that have one number a feature, and what they start at. `buffers`: numbers that are kept
    and not trained, from 0. `not_below`: weights that training may not push under a value. `transcodes`: SAELens' name
    where one site is read and another reconstructed, None where it has no such class. `revives`: what brings back dead
    features. `matrices`: how many matrices [row, d_sae] a step may hold at once, where many latents fire or are dead.
    """

    name: str
    settings: type[Any]
    step: Callable[[Tensors, Tensors, Batch, Any], Step]
    per_feature: Callable[[Any], dict[str, float]]
    revives: Literal["aux-k", "resampling", "pre-act loss"]
    paper: str
    matrices: int
    transcodes: str | None = None
    buffers: tuple[str, ...] = ()
    not_below: Mapping[str, float] = field(default_factory=dict)


class Fit(NamedTuple):
    """A reconstruction: its loss, its `error`, and the loss's slope at the values.

    The slope at the reconstruction is the error times `per`, a matrix as large as the batch that nobody has to make.
    """

    loss: Float[Tensor, ""]
    error: Float[Tensor, "row d_out"]
    to_values: Tensor
    per: float

    def to_decoder(self, code: Code, values: Tensor) -> Float[Tensor, "d_sae d_out"]:
        """The slope at W_dec, which read `values`."""
        return code.outer(values * self.per, self.error)

    def to_bias(self) -> Float[Tensor, " d_out"]:
        """The slope at the decoder's bias."""
        return self.error.sum(0) * self.per


def reconstruct(code: Code, values: Tensor, weights: Tensors, batch: Batch) -> Fit:
    """What the decoder makes of `values` on the code."""
    error, along = code.fit(values, weights["W_dec"], weights["b_dec"], batch.y)
    per = 2 / batch.rows
    return Fit(error.square().sum() / batch.rows, error, along * per, per)


def decoder_norm(weights: Tensors) -> Float[Tensor, " d_sae"]:
    """The length of every feature's direction."""
    return weights["W_dec"].norm(dim=1)


def along_norm(weights: Tensors, slope: Float[Tensor, " d_sae"]) -> Float[Tensor, "d_sae d_out"]:
    """The slope at W_dec of what has `slope` at its norms."""
    return weights["W_dec"] * (slope / decoder_norm(weights).clamp(min=1e-30))[:, None]


def encoder_gradients(
    code: Code, slope: Tensor, inputs: Tensor, weights: Tensors, batch: Batch, bias: str = "b_enc"
) -> Tensors:
    """Gradients of the encoder where the pre-activations have `slope`, and what of them reaches the decoder's bias."""
    found = {"W_enc": code.outer(slope, inputs), bias: code.per_feature(slope)}
    if batch.centred:
        found["b_dec"] = -(found[bias] @ weights["W_enc"])
    return found


def total(*parts: Mapping[str, Tensor]) -> Tensors:
    """The sums of gradients by name."""
    out: Tensors = {}
    for part in parts:
        for name, value in part.items():
            out[name] = out[name] + value if name in out else value
    return out


def encoder_weights(weights: Tensors, bias: str = "b_enc") -> Weights:
    """The encoder as it is."""
    return Weights(weights["W_enc"], weights[bias])


def scaled_encoder(weights: Tensors) -> tuple[Weights, Float[Tensor, " d_sae"]]:
    """The encoder times the decoder's norms, and these: how far a latent moves the output is what it is chosen by."""
    norm = decoder_norm(weights)
    return Weights(weights["W_enc"], weights["b_enc"], norm), norm


def no_loss(like: Tensor) -> Tensor:
    """A loss of zero."""
    return torch.zeros((), dtype=like.dtype, device=like.device)
