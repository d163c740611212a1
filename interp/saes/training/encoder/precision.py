"""What a product is made in, and how far a product in bfloat16 may be off.

The product in bfloat16 gives candidates only: all whose value in fp32 could count. They are scored again in fp32, so
that what counts, and every number that leaves an encoder, is fp32's. That is proven, row by row. Write x' for the
rounded x and x = x' + dx: the product x.w is off by dx.w + x'.dw, and so by |dx| |w| + |x'| |dw| at most (Cauchy and
Schwarz), with the norms of what rounding really took away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.loading.device import multiplies_bf16

Precision = Literal["fp32", "bf16"]
ROUNDING = 2.0**-8 * 1.02  # of a bfloat16 that is stored, relative
SUMS = 1e-4  # of |x| |w|: what summing in fp32, in some order, may be off by
DENSE = 0.08  # share of latents above which dense products are faster on a CPU (0.6 us a pair, 0.08 us an entry)
SAMPLE = 256  # rows that the first guess of a batch's threshold is made from
NOT_FINITE = (
    "rows or encoder hold numbers that are NaN, infinite or too large to square; training has diverged, or "
    "its rows are damaged: choose a lower learning rate, or capture them again"
)


class Weights(NamedTuple):
    """An encoder: pre-activations are `(x @ W.T + b) * scale`."""

    W: Float[Tensor, "d_sae d_in"]
    b: Float[Tensor, " d_sae"]
    scale: Float[Tensor, " d_sae"] | None = None

    def bias(self) -> Float[Tensor, " d_sae"]:
        """What is added to the product with the scaled W."""
        return self.b if self.scale is None else self.b * self.scale


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """`wanted`, or for "auto" bf16 where the processor multiplies it. Raises UserError for another word."""
    if wanted == "fp32" or wanted == "bf16":
        return wanted
    if wanted != "auto":
        raise UserError(f"precision {wanted!r}; expected fp32, bf16 or auto")
    return "bf16" if multiplies_bf16(device) else "fp32"


@contextmanager
def summed_in_fp32() -> Iterator[None]:
    """Inside, a GPU's products in bfloat16 are summed in fp32 throughout, as the bound above takes for granted."""
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction
    settings.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        settings.allow_bf16_reduced_precision_reduction = before


def guess(x: Float[Tensor, "row d_in"], weights: Weights, k: float) -> Float[Tensor, ""]:
    """A little below the threshold of the batch, by some rows of it."""
    some = x[:: max(1, len(x) // SAMPLE)]
    pre = torch.addmm(weights.b, some, weights.W.T)
    pre = (pre if weights.scale is None else pre * weights.scale).flatten()
    n = min(len(pre), max(1, round(1.2 * k * len(some))))
    return pre.topk(n, sorted=False).values.min().clamp(min=0)
