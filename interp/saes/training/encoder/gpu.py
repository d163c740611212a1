"""The encoder on a GPU: fixed shapes, and one question to the device a call.

A size that only the device knows makes the program wait until all work before is done. So a top k has the shape
[row, k] whatever is above zero, and says which of its pairs count; where a size must be known it is fetched together
with whatever else is asked (`Asked`). The matrix [row, d_sae] of a batch is made whole: a GPU has the memory, and reads
it back at once.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.saes.training.asked import Asked
from interp.saes.training.encoder.precision import (
    DENSE,
    NOT_FINITE,
    ROUNDING,
    SUMS,
    Precision,
    Weights,
    guess,
    summed_in_fp32,
)
from interp.saes.training.processes import Ranks
from interp.saes.training.sparse_codes import Code, Grid, Pairs, from_flat

SPARE = 2.0  # candidates of a bfloat16 product, at first, in k
UNDER = 0.95  # of the last threshold, where candidates for the next begin
TRIES = 8  # with ever more candidates; then fp32
LEAST = 1e-38  # above zero


class _Product(NamedTuple):
    """Pre-activations as they were multiplied, how far a row's may be `off` fp32's (None for fp32), and whether
    everything that went in was finite."""

    pre: Float[Tensor, "row d_sae"]
    off: Float[Tensor, "row 1"] | None
    finite: Bool[Tensor, ""]

    def may_reach(self, bound: Float[Tensor, ""]) -> Tensor:
        """Down to where numbers of `pre` might reach `bound` in fp32, for every row."""
        if self.off is None:
            return bound
        low = bound - self.off
        return torch.where(low > 0, low * (1 - ROUNDING), low * (1 + 2 * ROUNDING))

    def must_reach(self, bound: Float[Tensor, ""]) -> Tensor:
        """Up from where they surely do; `bound` is not below zero."""
        return bound if self.off is None else (bound + self.off) * (1 + 2 * ROUNDING)

    def at_most(self, pre: Float[Tensor, "row some"]) -> Float[Tensor, "row some"]:
        """What fp32 might make of some of these numbers."""
        return pre if self.off is None else pre.float() + ROUNDING * pre.float().abs() + self.off


class GPUEncoder:
    """An `Encoder` for a GPU. `spare`: candidates of a bfloat16 top k, in k. `hint`: the threshold of the last batch,
    and `under`: the share of it at which candidates for the next begin."""

    def __init__(self, precision: Precision = "fp32") -> None:
        self.precision: Precision = precision
        self.spare, self.under = SPARE, UNDER
        self.hint: Float[Tensor, ""] | None = None

    def top_k(self, x: Float[Tensor, "row d_in"], weights: Weights, k: int, asked: Asked | None = None) -> Pairs:
        """The `k` largest of every row, of those above zero (the others leave a ReLU as zero)."""
        asked, product, d_sae = asked or Asked(), self._product(x, weights), len(weights.W)
        k = min(k, d_sae)
        for _ in range(TRIES):
            n = k if product.off is None else min(d_sae, max(k + 1, round(self.spare * k)))
            values, features = largest(product.pre, n)
            proven = product.finite
            if product.off is not None:
                lowest = values.amin(1, keepdim=True)
                candidates = Pairs(
                    _every(len(x), n, x.device), features.flatten().int(), values.flatten().to(x.dtype), d_sae
                )
                values, best = _exact(x, weights, candidates).view(len(x), n).topk(k, sorted=False)
                features = features.gather(1, best)
                beyond = product.at_most(lowest)  # no other can be more
                proven = ((values.amin(1, keepdim=True).clamp(min=0) >= beyond) | (beyond <= 0)).all() | (n == d_sae)
            asked.want(finite=product.finite, proven=proven)
            _check_finite(asked)
            if asked["proven"]:
                features, order = features.sort(1)
                values = values.gather(1, order).flatten()
                return Pairs(_every(len(x), k, x.device), features.flatten().int(), values, d_sae, values > 0)
            self.spare *= 2
        return GPUEncoder("fp32").top_k(x, weights, k, asked)

    def batch_top_k(
        self, x: Float[Tensor, "row d_in"], weights: Weights, k: float, ranks: Ranks, asked: Asked | None = None
    ) -> Pairs:
        """The k x rows largest of the whole batch, over all `ranks`, of those above zero. Ties at the end all count."""
        asked, product, wanted = asked or Asked(), self._product(x, weights), int(k * len(x) * ranks.count)
        hint = ranks.highest(guess(x, weights, k)) if self.hint is None else self.under * self.hint.to(x.device)
        tries = 0
        while True:
            bound = hint.clamp(min=LEAST)
            may = product.pre >= product.may_reach(bound)
            certain = (product.pre >= product.must_reach(bound)).sum()
            ranks.add(certain)
            asked.want(finite=product.finite, pairs=may.sum(), certain=certain, hint=hint)
            _check_finite(asked)
            if asked["certain"] >= wanted or not asked["hint"]:
                break
            tries, self.under = tries + 1, max(0.5, 0.98 * self.under)
            hint = hint * (0.8 if tries < TRIES else 0.0)  # at last, all above zero are candidates
        found = self._pairs(product, may, int(asked["pairs"]), x, weights)
        values = ranks.gather(found.pre.clamp(min=0))
        enough = len(values) >= wanted > 0
        self.hint = threshold = values.topk(wanted, sorted=False).values.min() if enough else torch.zeros_like(hint)
        return replace(found, on=(found.pre > 0) & (found.pre >= threshold) if wanted else found.pre > torch.inf)

    def above(
        self, x: Float[Tensor, "row d_in"], weights: Weights, floor: Float[Tensor, " d_sae"], asked: Asked | None = None
    ) -> Code:
        """All above their feature's `floor`: pairs, or a grid where so many are that dense products are faster."""
        asked = asked or Asked()
        product = self._product(x, Weights(weights.W, weights.b - floor))  # so that what is looked for is above zero
        may = product.pre >= product.may_reach(torch.full((), LEAST, dtype=x.dtype, device=x.device))
        asked.want(finite=product.finite, pairs=may.sum())
        _check_finite(asked)
        if asked["pairs"] > DENSE * may.numel():
            pre = torch.addmm(weights.b, x, weights.W.T)
            return Grid(pre, pre > floor)
        plain = Weights(weights.W, weights.b)
        found = self._pairs(product, may, int(asked["pairs"]), x, plain)
        if product.off is None:
            found = replace(found, pre=found.pre + found.of_feature(floor))
        return replace(found, on=found.pre > found.of_feature(floor))

    def numbers(self) -> dict[str, Any]:
        """Where to look next, ready for JSON."""
        return {"spare": self.spare, "under": self.under, "hint": None if self.hint is None else float(self.hint)}

    def restore(self, numbers: dict[str, Any]) -> None:
        """Look where `numbers` said; what another device's encoder knew is learned anew."""
        self.spare, self.under = numbers.get("spare", SPARE), numbers.get("under", UNDER)
        self.hint = None if numbers["hint"] is None else torch.tensor(numbers["hint"])

    def _product(self, x: Float[Tensor, "row d_in"], weights: Weights) -> _Product:
        exact = weights.W if weights.scale is None else weights.W * weights.scale[:, None]
        bias, norms = weights.bias(), x.norm(dim=1, keepdim=True)
        finite = torch.isfinite(norms.sum() + bias.abs().sum() + exact.sum())
        if self.precision == "fp32":
            return _Product(torch.addmm(bias, x, exact.T), None, finite)
        low_x, low_W, low_bias = x.bfloat16(), exact.bfloat16(), bias.bfloat16()
        longest, lost = exact.norm(dim=1).max(), (exact - low_W).norm(dim=1).max()
        off = (x - low_x).norm(dim=1, keepdim=True) * longest + norms * (1 + ROUNDING) * lost + SUMS * norms * longest
        off = (off + ROUNDING * bias.abs().max()).clamp(min=1e-30)
        with summed_in_fp32():
            return _Product(torch.addmm(low_bias, low_x, low_W.T), off, finite)

    def _pairs(self, product: _Product, may: Bool[Tensor, "row d_sae"], n: int, x: Tensor, weights: Weights) -> Pairs:
        """The `n` places of `may`, scored in x's precision."""
        flat = torch.nonzero_static(may.view(-1), size=n).flatten()
        found = from_flat(flat, product.pre.view(-1)[flat].to(x.dtype), *may.shape)
        return found if product.off is None else replace(found, pre=_exact(x, weights, found))


def largest(pre: Float[Tensor, "row d_sae"], n: int) -> tuple[Float[Tensor, "row n"], Int[Tensor, "row n"]]:
    """The `n` largest of every row and where they are, in no order.

    They lie in the n groups of largest maxima: a pass over the numbers finds those, and what is sorted is short.
    """
    d_sae = pre.shape[1]
    size = isqrt(d_sae // n)
    if size < 2:
        return torch.topk(pre, n, sorted=False)
    groups = d_sae // size
    within = pre[:, : size * groups].view(len(pre), size, groups)  # of group g: every `groups`th, beginning with g
    best = within.amax(1).topk(n, sorted=False).indices
    chosen = within.gather(2, best[:, None].expand(-1, size, -1)).flatten(1)
    rest = pre[:, size * groups :]
    values, at = torch.cat([chosen, rest], 1).topk(n, sorted=False)
    inside = at < size * n
    feature = (at // n) * groups + best.gather(1, at % n)
    return values, torch.where(inside, feature, at - size * n + size * groups)


def _every(rows: int, n: int, device: torch.device) -> Int[Tensor, " end"]:
    """Where rows begin that have `n` pairs each, and the end."""
    return torch.arange(0, (rows + 1) * n, n, dtype=torch.int32, device=device)


def _exact(x: Float[Tensor, "row d_in"], weights: Weights, code: Pairs) -> Float[Tensor, " pair"]:
    """The pre-activations of these pairs, pair by pair."""
    exact = code.along(x, weights.W) + code.of_feature(weights.b)
    return exact if weights.scale is None else exact * code.of_feature(weights.scale)


def _check_finite(asked: Asked) -> None:
    if not asked["finite"]:
        raise UserError(NOT_FINITE)
