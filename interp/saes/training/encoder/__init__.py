"""The one dense product of a training step: pre-activations, and which of them count.

    encoder = encoder_on(device, "fp32")
    code = encoder.top_k(x, Weights(W, b), k=32)        # Pairs

Each kind of device has its own way. On a CPU (`cpu`) chunks of rows are looked at while they are in the cache; on a GPU
(`gpu`) everything has a fixed shape, for each size that is asked of it makes the program wait. Both give fp32's
numbers, also where the product was made in bfloat16.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from interp.saes.training.asked import Asked
from interp.saes.training.encoder.cpu import CPUEncoder
from interp.saes.training.encoder.gpu import GPUEncoder
from interp.saes.training.encoder.precision import Precision, Weights, choose_precision
from interp.saes.training.processes import Ranks
from interp.saes.training.sparse_codes import Code, Pairs

__all__ = ["CPUEncoder", "Encoder", "GPUEncoder", "Precision", "Weights", "choose_precision", "encoder_on"]


class Encoder(Protocol):
    """Finds the pre-activations that count. Between batches it remembers where to look, never what to find.

    Raises UserError for rows or weights that are not finite. `asked`: what else to fetch from the device meanwhile.
    """

    def top_k(self, x: Float[Tensor, "row d_in"], weights: Weights, k: int, asked: Asked | None = None) -> Pairs:
        """The `k` largest of every row, of those above zero (the others leave a ReLU as zero)."""
        ...

    def batch_top_k(
        self, x: Float[Tensor, "row d_in"], weights: Weights, k: float, ranks: Ranks, asked: Asked | None = None
    ) -> Pairs:
        """The k x rows largest of the whole batch, over all `ranks`, of those above zero. Ties at the end all count."""
        ...

    def above(
        self, x: Float[Tensor, "row d_in"], weights: Weights, floor: Float[Tensor, " d_sae"], asked: Asked | None = None
    ) -> Code:
        """All above their feature's `floor`: pairs, or a grid where so many are that dense products are faster."""
        ...

    def numbers(self) -> dict[str, Any]:
        """Where to look next, ready for JSON."""
        ...

    def restore(self, numbers: dict[str, Any]) -> None:
        """Look where `numbers` said."""
        ...


def encoder_on(device: torch.device, precision: Precision) -> Encoder:
    """The encoder for this kind of device."""
    return CPUEncoder(precision) if device.type == "cpu" else GPUEncoder(precision)
