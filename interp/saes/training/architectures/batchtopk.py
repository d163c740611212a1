"""BatchTopK: the k x rows largest pre-activations of a batch fire, whatever token they are of.

Bussmann et al. 2412.06410. Tokens that need more features get them. Outside training a token stands alone, so that a
threshold takes the batch's place: the running mean of the smallest value that fired. It is saved as a JumpReLU SAE,
as sae-lens does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from interp.saes.training.architectures.base import Architecture, Batch, Step, Tensors, scaled_encoder
from interp.saes.training.architectures.topk import TopK, step_of_chosen
from interp.saes.training.sparse_codes import Pairs

# A mean that runs from zero is too small at first; divided by the same mean of ones it is not. (sae-lens' is not
# divided: after 60 steps its SAEs have twice the features active that they were trained with.)
BUFFERS = ("topk_threshold", "topk_threshold_weight")


@dataclass(frozen=True)
class BatchTopK(TopK):
    """Settings of a BatchTopK SAE."""

    k: float = 32.0  # type: ignore[assignment]  # as in sae-lens
    """Features active at a token, on average."""
    topk_threshold_lr: float = 0.01
    """Weight of each batch in the running mean of the threshold."""


def batch_topk_step(weights: Tensors, buffers: Tensors, batch: Batch, settings: BatchTopK) -> Step:
    """Loss and gradients on a batch."""
    inputs = batch.inputs(weights)
    code, kept = choose_in_batch(inputs, weights, buffers, batch, settings)
    return replace(step_of_chosen(code, inputs, weights, batch, settings), buffers=kept)


def choose_in_batch(
    inputs: Tensor, weights: Tensors, buffers: Tensors, batch: Batch, settings: BatchTopK
) -> tuple[Pairs, dict[str, Tensor]]:
    """The latents that fire, and the threshold's new running mean."""
    scaled, norm = scaled_encoder(weights)
    code = batch.encoder.batch_top_k(inputs, scaled, settings.k, batch.ranks, batch.asked)
    lowest = -batch.ranks.highest(-code.lowest().double())
    lr = settings.topk_threshold_lr * lowest.isfinite().double()  # a batch in which nothing fires says nothing
    lowest = lowest.nan_to_num(posinf=0.0)
    kept = {name: (1 - lr) * buffers[name] + lr * new for name, new in zip(BUFFERS, (lowest, 1.0), strict=True)}
    return replace(code, pre=code.pre / norm[code.feature]), kept


ARCHITECTURE = Architecture(
    name="batchtopk",
    settings=BatchTopK,
    step=batch_topk_step,
    per_feature=lambda settings: {"b_enc": 0.0},
    buffers=BUFFERS,
    transcodes="jumprelu_transcoder",
    revives="aux-k",
    matrices=6,
    paper="Bussmann et al. 2024, arXiv:2412.06410",
)
