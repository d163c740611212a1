"""Matryoshka BatchTopK: nested dictionaries, each of which has to reconstruct alone. Bussmann et al. 2503.17547.

The first `widths[0]` features reconstruct, the first `widths[1]` do, and so on to all of them; the losses add up.
General features then stay general instead of being absorbed by special ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch

from interp.errors import UserError
from interp.saes.training.architectures import batchtopk
from interp.saes.training.architectures.base import Batch, Step, Tensors, encoder_gradients, total
from interp.saes.training.architectures.batchtopk import BatchTopK, choose_in_batch
from interp.saes.training.architectures.revival import aux_k


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
    inputs, levels = batch.inputs(weights), list(pairwise((0, *settings.matryoshka_widths)))
    code, kept = choose_in_batch(inputs, weights, buffers, batch, settings)
    which = [code.between(first, stop) for first, stop in levels]
    parts = [code.chosen(some) for some in which]
    kept_pre = [part.keep(part.pre) for part in parts]
    decoded = (part.decode(pre, weights["W_dec"]) for part, pre in zip(parts, kept_pre, strict=True))
    _, *errors = accumulate(decoded, initial=weights["b_dec"] - batch.y)
    losses = [error.square().sum() / batch.rows for error in errors]
    # a feature is in its own level and all wider ones: its slope is the sum of theirs
    to_pre, to_decoder = torch.zeros_like(code.pre), torch.zeros_like(weights["W_dec"])
    beyond = torch.zeros_like(batch.y)
    nested = zip(levels, parts, which, kept_pre, errors, strict=True)
    for (first, stop), part, some, pre, error in reversed(list(nested)):
        beyond = beyond + error * (2 / batch.rows)
        to_pre += code.spread(some, part.along(beyond, weights["W_dec"]))
        to_decoder[first:stop] = part.outer(pre, beyond)[first:stop]
    aux_loss, aux_gradients = aux_k(weights, inputs, errors[-1], batch, settings.aux_loss_coefficient)
    gradients = total(
        {"W_dec": to_decoder, "b_dec": beyond.sum(0)},
        encoder_gradients(code, to_pre, inputs, weights, batch),
        aux_gradients,
    )
    *inner, whole = losses
    named = {f"inner_mse_loss_{width}": loss for width, loss in zip(settings.matryoshka_widths, inner, strict=False)}
    told = {"mse_loss": whole, "auxiliary_reconstruction_loss": aux_loss, **named}
    return Step(told, gradients, code, code.keep(code.pre), errors[-1], kept)


ARCHITECTURE = replace(
    batchtopk.ARCHITECTURE,
    name="matryoshka_batchtopk",
    settings=Matryoshka,
    step=matryoshka_step,
    paper="Bussmann et al. 2025, arXiv:2503.17547",
)
