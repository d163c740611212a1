"""The order of a sum: floating-point addition rounds after every step, so that (a + b) + c need not be a + (b + c)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import Model


@dataclass(frozen=True)
class Sums:
    """One dot product a row, summed in several orders: `by_order` [row, order], and `exact` [row] in double
    precision."""

    name: str
    by_order: Float[Tensor, "row order"]
    exact: Float[Tensor, " row"]

    @property
    def differ(self) -> list[bool]:
        """Do the orders give more than one number?"""
        return (self.by_order.amax(1) != self.by_order.amin(1)).tolist()

    @property
    def spread(self) -> Float[Tensor, " row"]:
        """Largest less smallest of the sums."""
        return (self.by_order.amax(1) - self.by_order.amin(1)).double()


@torch.no_grad()
def products_of(model: Model, prompts: list[str], rows: int) -> Float[Tensor, "row d"]:
    """The terms of the model's own logits: what the unembedding reads, times the row of the likeliest token."""
    head = model.hf.get_output_embeddings()
    assert head is not None
    read: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, args: read.append(args[0][0, -1].detach().float()))
    try:
        best = [
            int(model.hf(torch.tensor([ids], device=model.device)).logits[0, -1].argmax())
            for ids in model.encode(prompts[:rows])
        ]
    finally:
        handle.remove()
    return (torch.stack(read) * head.weight.detach()[best].float()).cpu()


def add_in_orders(terms: Float[Tensor, "row d"], dtype: torch.dtype, name: str, *, orders: int, seed: int) -> Sums:
    """Add the terms one after the other, each time in another order, rounding to `dtype` as a processor does."""
    rng = np.random.default_rng(seed)
    rounded = terms.to(dtype)
    sums = []
    for _ in range(orders):
        total = torch.zeros(len(terms), dtype=dtype)
        for column in rng.permutation(terms.shape[1]).tolist():
            total = total + rounded[:, column]
        sums.append(total)
    return Sums(name, torch.stack(sums, 1), rounded.double().sum(1))


def whole_numbers(terms: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
    """The same terms as whole numbers up to a few hundred, whose sums every float holds exactly."""
    return (terms / terms.abs().max() * 100).round()
