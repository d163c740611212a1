"""Matryoshka BatchTopK: nested dictionaries, each of which has to reconstruct alone. Bussmann et al. 2503.17547.

The first `widths[0]` features reconstruct, the first `widths[1]` do, and so on to all of them; the losses add up.
General features then stay general instead of being absorbed by special ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from interp.errors import UserError
from interp.saes.architectures.base import Architecture, Batch, Step, Tensors, encoder_gradients, error_of, total
from interp.saes.architectures.batchtopk import BUFFERS, BatchTopK, choose_in_batch
from interp.saes.architectures.revival import aux_k


@dataclass(frozen=True)
class Matryoshka(BatchTopK):
    """Settings of a Matryoshka BatchTopK SAE."""

    matryoshka_widths: tuple[int, ...] = ()
    """How many of the first features each level has; the last level has all."""

    def check_width(self, d_sae: int) -> None:
        """Refuse levels that do not rise to the width."""
        widths = (0, *self.matryoshka_widths)
        if len(widths) < 3 or any(a >= b for a, b in pairwise(widths)) or widths[-1] != d_sae:
            raise UserError(
                f"matryoshka widths {', '.join(map(str, widths[1:])) or 'none'}; expected two or more that rise to the "
                f"width {d_sae}, such as {d_sae // 16} {d_sae // 4} {d_sae}"
            )


def matryoshka_step(weights: Tensors, buffers: Tensors, batch: Batch, settings: Matryoshka) -> Step:
    """Loss and gradients on a batch."""
    settings.check_width(len(weights["W_enc"]))
    code, kept = choose_in_batch(weights, buffers, batch, settings)
    inputs, levels = batch.inputs(weights), list(pairwise((0, *settings.matryoshka_widths)))
    which = [code.between(first, stop) for first, stop in levels]
    parts = [code.chosen(some) for some in which]
    out, errors, slopes = weights["b_dec"].expand_as(batch.y), [], []
    for part in parts:
        out = out + part.decode(part.pre, weights["W_dec"])
        error, slope = error_of(out, batch)
        errors.append(error)
        slopes.append(slope)
    # a feature is in its own level and all wider ones: its slope is the sum of theirs
    to_pre, to_decoder, beyond = torch.zeros_like(code.pre), torch.zeros_like(weights["W_dec"]), torch.zeros_like(out)
    for (first, stop), part, some, slope in reversed(list(zip(levels, parts, which, slopes, strict=True))):
        beyond = beyond + slope
        to_pre[some] = part.along(beyond, weights["W_dec"])
        to_decoder[first:stop] = part.outer(part.pre, beyond)[first:stop]
    aux_loss, aux_gradients = aux_k(weights, inputs, batch.y - out, batch, settings.aux_loss_coefficient)
    gradients = total(
        {"W_dec": to_decoder, "b_dec": beyond.sum(0)},
        encoder_gradients(code, to_pre, inputs, weights, batch),
        aux_gradients,
    )
    inner = {
        f"inner_mse_loss_{width}": error for width, error in zip(settings.matryoshka_widths[:-1], errors, strict=False)
    }
    losses: dict[str, Tensor] = {"mse_loss": errors[-1], "auxiliary_reconstruction_loss": aux_loss, **inner}
    return Step(losses, gradients, code, code.pre, out, kept)


ARCHITECTURE = Architecture(
    name="matryoshka_batchtopk",
    settings=Matryoshka,
    step=matryoshka_step,
    per_feature=lambda settings: {"b_enc": 0.0},
    buffers=BUFFERS,
    transcodes="jumprelu_transcoder",
    revives="aux-k",
    matrices=6,
    paper="Bussmann et al. 2025, arXiv:2503.17547",
)
