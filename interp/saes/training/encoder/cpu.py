"""The encoder on a CPU: chunks of rows, looked at while they are in the cache.

A chunk of rows is multiplied by the encoder, what counts is taken from it while it is still in the cache, and the
matrix [row, d_sae] of a whole batch never exists. Floating-point numbers above zero have the order of their bits read
as whole numbers, and comparing those is faster. In bfloat16, where the candidates do not reach far enough below what
counts, the batch is done again with more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.saes.training.asked import Asked
from interp.saes.training.encoder.precision import DENSE, NOT_FINITE, ROUNDING, SAMPLE, SUMS, Precision, Weights, guess
from interp.saes.training.processes import Ranks
from interp.saes.training.sparse_codes import Code, Grid, Pairs, from_flat

ROWS = 256  # a chunk, whose pre-activations stay in the cache
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float64: torch.int64}
TRIES = 8  # with ever more candidates; then fp32
BLOCK = 512  # rows of W at once
Take = Callable[[Tensor, slice], Tensor]  # pre-activations of a chunk, its rows -> flat places of what may count


class _Product(NamedTuple):
    """Rows and encoder ready to be multiplied: `x @ W.T + b`, with how far a row's results may be `off`.

    In bfloat16 `lift` was added to b, so that whatever may be above zero is; it is at `least` then.
    """

    x: Float[Tensor, "row d_in"]
    W: Float[Tensor, "d_sae d_in"]
    b: Float[Tensor, " d_sae"]
    off: Float[Tensor, " row"]
    lift: float
    least: Float[Tensor, " row"]


class CPUEncoder:
    """An `Encoder` for a CPU. `reach`: how far bfloat16's candidates go below what counts, in units of what a product
    may be off by. `hint`: the threshold of the last batch."""

    def __init__(self, precision: Precision = "fp32") -> None:
        self.precision: Precision = precision
        self.reach = 1.1
        self.hint: float | None = None

    def top_k(self, x: Float[Tensor, "row d_in"], weights: Weights, k: int, asked: Asked | None = None) -> Pairs:
        """The `k` largest of every row, of those above zero (the others leave a ReLU as zero)."""
        ready = self._ready(x, weights)
        for _ in range(TRIES):
            floors: list[Tensor] = []

            def take(pre: Tensor, rows: slice, floors: list[Tensor] = floors) -> Tensor:
                floors.append(self._below(_lower_bound(pre, k), ready, rows))
                return _at_least(pre, floors[-1])

            found = self._exact(x, weights, *self._scan(ready, take))
            code = found.chosen(_strongest(found, k) & (found.pre > 0))
            if self._reached(_smallest(code), torch.cat(floors), ready):
                return code
        return CPUEncoder("fp32").top_k(x, weights, k)

    def batch_top_k(
        self, x: Float[Tensor, "row d_in"], weights: Weights, k: float, ranks: Ranks, asked: Asked | None = None
    ) -> Pairs:
        """The k x rows largest of the whole batch, over all `ranks`, of those above zero. Ties at the end all count."""
        ready, wanted = self._ready(x, weights), int(k * len(x) * ranks.count)
        hint = -ranks.largest(-float(guess(x, weights, k))) if self.hint is None else 0.95 * self.hint
        for attempt in range(2 * TRIES):
            hint = hint if attempt < TRIES else 0.0  # all above zero are candidates then
            floor = self._below(x.new_full((len(x),), hint) + ready.lift, ready)
            lowest = ranks.largest(float((floor - ready.least).max()))  # zero: all that can count is a candidate
            found = self._exact(
                x, weights, *self._scan(ready, lambda pre, rows, floor=floor: _at_least(pre, floor[rows]))
            )
            found = found.chosen(found.pre > 0)
            values = ranks.gather(found.pre)
            if len(values) < wanted and lowest > 0:
                hint = 0.8 * hint
                continue
            enough = len(values) >= wanted > 0
            threshold = values.topk(wanted, sorted=False).values.min() if enough else x.new_tensor(0.0)
            if ranks.largest(float(not self._reached(threshold, floor, ready))) == 0:
                self.hint = float(threshold)
                return found.chosen(found.pre >= threshold if wanted else torch.zeros_like(found.pre, dtype=torch.bool))
            hint = min(hint, float(threshold))
        return CPUEncoder("fp32").batch_top_k(x, weights, k, ranks)

    def above(
        self, x: Float[Tensor, "row d_in"], weights: Weights, floor: Float[Tensor, " d_sae"], asked: Asked | None = None
    ) -> Code:
        """All above their feature's `floor`: pairs, or a grid where so many are that dense products are faster."""
        ready = self._ready(x, Weights(weights.W, weights.b - floor))  # so that what is looked for is above zero

        def take(pre: Tensor, rows: slice) -> Tensor:
            return _at_least(pre, ready.least[rows])

        some = ready._replace(x=ready.x[:SAMPLE])
        if len(self._scan(some, take)[0]) > DENSE * len(some.x) * len(weights.W):
            pre = torch.addmm(weights.b, x, weights.W.T)
            return Grid(pre, pre > floor)
        flat, low = self._scan(ready, take)
        found = self._exact(x, weights, flat, low + floor[flat % len(floor)])
        return found.chosen(found.pre > floor[found.feature])

    def numbers(self) -> dict[str, Any]:
        """Where to look next, ready for JSON."""
        return {"reach": self.reach, "hint": self.hint}

    def restore(self, numbers: dict[str, Any]) -> None:
        """Look where `numbers` said."""
        self.reach, self.hint = numbers["reach"], numbers["hint"]

    def _ready(self, x: Tensor, weights: Weights) -> _Product:
        """What is multiplied, in blocks: a large matrix that is made in passing would cost more."""
        dtype = torch.bfloat16 if self.precision == "bf16" else x.dtype
        plain = weights.scale is None and self.precision == "fp32"
        W = weights.W if plain else torch.empty_like(weights.W, dtype=dtype)
        longest = lost = 0.0
        for first in range(0, 0 if plain else len(W), BLOCK):
            some = slice(first, first + BLOCK)
            exact = weights.W[some].clone() if weights.scale is None else weights.W[some] * weights.scale[some, None]
            W[some] = exact
            if self.precision == "bf16":
                longest = max(longest, float(exact.norm(dim=1).max()))
                lost = max(lost, float(exact.sub_(W[some]).norm(dim=1).max()))
        bias, norms = weights.bias(), x.norm(dim=1)
        if not bool(torch.isfinite(norms.sum() + bias.abs().sum() + weights.W.sum())):
            raise UserError(NOT_FINITE)
        if self.precision == "fp32":
            return _Product(x, W, bias, torch.zeros_like(norms), 0.0, torch.zeros_like(norms))
        low = x.to(dtype)
        off = (x - low).norm(dim=1) * longest + norms * (1 + ROUNDING) * lost + SUMS * norms * longest
        off = (off + ROUNDING * bias.abs().max()).clamp(min=1e-30)
        lift = 1.05 * float(off.max())
        off = off + ROUNDING * lift
        return _Product(low, W, (bias + lift).to(dtype), off, lift, ((lift - off) * (1 - ROUNDING)).clamp(min=0))

    def _scan(self, ready: _Product, take: Take) -> tuple[Tensor, Tensor]:
        """Flat places of what `take` finds in the pre-activations, chunk by chunk, and their values as computed."""
        buffer = torch.empty(min(ROWS, len(ready.x)), len(ready.W), dtype=ready.x.dtype)
        places, values = [], []
        for first in range(0, len(ready.x), ROWS):
            chunk = ready.x[first : first + ROWS]
            pre = torch.addmm(ready.b, chunk, ready.W.T, out=buffer[: len(chunk)])
            flat = take(pre, slice(first, first + len(chunk)))
            places.append(flat + first * len(ready.W))
            found = pre.view(-1)[flat]
            values.append(found.float() if found.dtype == torch.bfloat16 else found)
        return torch.cat(places), torch.cat(values)

    def _exact(self, x: Tensor, weights: Weights, flat: Tensor, low: Tensor) -> Pairs:
        """Those places as pairs, scored in x's precision."""
        found = from_flat(flat, low, len(x), len(weights.W))
        if self.precision == "fp32":
            return found
        exact = found.along(x, weights.W) + found.of_feature(weights.b)
        return replace(found, pre=exact if weights.scale is None else exact * found.of_feature(weights.scale))

    def _below(self, bound: Tensor, ready: _Product, rows: slice = slice(None)) -> Tensor:
        """Down to where candidates are taken, if what counts reaches `bound` by the product's own rounding."""
        if self.precision == "fp32":
            return bound.clamp(min=0)
        return torch.maximum(bound * (1 - ROUNDING) - self.reach * ready.off[rows], ready.least[rows])

    def _reached(self, lowest: Tensor, floor: Tensor, ready: _Product) -> bool:
        """Can nothing that lay below `floor` come up to `lowest`, the smallest that counts? Else reach further."""
        proven = (floor <= ready.least) | (lowest + ready.lift >= floor * (1 + ROUNDING) + ready.off)
        if self.precision == "fp32" or bool(proven.all()):
            return True
        self.reach = 1.2 * self.reach if self.reach > 0.5 else 1.1
        return False


def _lower_bound(pre: Float[Tensor, "row d_sae"], k: int) -> Float[Tensor, " row"]:
    """A number that at least `k` of every row reach, near the k-th largest; zero where fewer are above zero.

    The k-th largest of the maxima of disjoint groups.
    """
    groups = next((len_ for size in (64, 32, 16, 8) if (len_ := pre.shape[1] // size) >= 2 * k), 0)
    bits = pre.view(BITS[pre.dtype])
    if groups:
        size = pre.shape[1] // groups
        bits = bits[:, : size * groups].view(len(pre), size, groups).amax(1)
    k = min(k, bits.shape[1])
    lowest = bits.topk(k, sorted=False).values.amin(-1).clamp(min=0).view(pre.dtype)
    return lowest.float() if pre.dtype == torch.bfloat16 else lowest


def _at_least(pre: Float[Tensor, "row d_sae"], floor: Float[Tensor, " row"]) -> Int[Tensor, " pair"]:
    """Flat places, rising, of all that are above zero and reach their row's `floor`."""
    bits = pre.view(BITS[pre.dtype])
    least = _bits_below(floor.clamp(min=0), pre.dtype).clamp(min=1)[:, None]
    # zero where not, for int16: twice as fast as a comparison
    mask = torch.maximum(bits, least - 1).sub_(least - 1) if bits.dtype == torch.int16 else bits >= least
    if mask.numel() * mask.element_size() % 8:
        return mask.view(-1).nonzero().view(-1)
    each = 8 // mask.element_size()  # several at a time: few of these words hold any
    words = mask.view(-1).view(torch.int64).nonzero().view(-1)
    inside = mask.view(-1, each)[words].nonzero()
    return words[inside[:, 0]] * each + inside[:, 1]


def _bits_below(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The bits of the largest number of `dtype` that is no larger than each of `values` (none below zero)."""
    if dtype == torch.bfloat16:
        return (values.float().view(torch.int32) >> 16).to(torch.int16)
    return values.to(dtype).view(BITS[dtype])


def _strongest(code: Pairs, k: int) -> Bool[Tensor, " pair"]:
    """The `k` largest of every row."""
    counts = code.starts.diff()
    most = int(counts.max()) if len(counts) else 0
    if most <= k:
        return torch.ones_like(code.feature, dtype=torch.bool)
    row = code.row.long()
    place = torch.arange(len(row), device=row.device) - code.starts[row]
    padded = code.pre.new_full((len(counts), most), -torch.inf)
    padded[row, place] = code.pre
    best = torch.zeros_like(padded, dtype=torch.bool).scatter_(1, padded.topk(k, sorted=False).indices, True)
    return best[row, place]


def _smallest(code: Pairs) -> Float[Tensor, " row"]:
    """The smallest pre-activation of every row; infinite where it has none."""
    none = code.pre.new_full((len(code.starts) - 1,), torch.inf)
    return none.scatter_reduce_(0, code.row.long(), code.pre, "amin")
