"""Which latents are active on a batch, and the few products that training needs of them.

A code holds an SAE's pre-activations where they count: `Pairs` keeps (row, feature) pairs, `Grid` the whole matrix.
Both answer the same questions, so that an architecture's loss and gradients are written once, with values "on the
code": one number a pair, or a matrix [row, d_sae] that is zero off its mask.

With k of d_sae latents active, every product but the encoder's touches k/d_sae of its rows (Gao et al. 2406.04093, D):
the decoder and the gradients read and write k rows a token, by embedding_bag, whose order of sums is fixed. Pairs
sorted by feature make the weight gradients sums over neighbours instead of scattered additions.

How many pairs count is known to a GPU alone, and asking it makes the program wait. So `Pairs` may hold more than count,
with `on` to tell them apart, as a grid's mask does: "on the code" means zero where a pair does not count.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

FEW = 16  # rows whose features stay in a core's cache: 16 x 32 directions of 768 numbers are 1.6 MB
BAG = 128  # pairs that a GPU adds one after the other; longer sums are made of several


@dataclass(frozen=True)
class Pairs:
    """Active latents as pairs in the order of rows: those of row r are `starts[r]` to `starts[r + 1]`.

    `starts` [end] has one number more than there are rows. `pre` [pair] are the pre-activations. Indices are int32.
    `on`: which pairs count; None where all do.
    """

    starts: Int[Tensor, " end"]
    feature: Int[Tensor, " pair"]
    pre: Float[Tensor, " pair"]
    d_sae: int
    on: Bool[Tensor, " pair"] | None = None

    @cached_property
    def row(self) -> Int[Tensor, " pair"]:
        """The row of each pair."""
        n = len(self.starts) - 1
        counts = self.starts.diff()
        return torch.arange(n, dtype=torch.int32, device=counts.device).repeat_interleave(
            counts, output_size=len(self.feature)
        )

    @cached_property
    def _by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs' order by feature, then row; their rows in that order; where each feature begins."""
        feature, order = torch.sort(self.feature, stable=True)
        edges = torch.arange(self.d_sae + 1, dtype=feature.dtype, device=feature.device)
        return order, self.row[order], torch.searchsorted(feature, edges, out_int32=True)

    def keep(self, values: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        """`values` on the code: zero where a pair does not count."""
        return values if self.on is None else values * self.on

    def of_feature(self, values: Float[Tensor, " d_sae"]) -> Float[Tensor, " pair"]:
        """A number a feature, for every pair."""
        return values[self.feature]

    def of_row(self, values: Float[Tensor, " row"]) -> Float[Tensor, " pair"]:
        """A number a row, for every pair."""
        return values[self.row]

    def decode(self, values: Float[Tensor, " pair"], W: Float[Tensor, "d_sae d"]) -> Float[Tensor, "row d"]:
        """`values @ W`."""
        return embedding_bag(
            self.feature, W, self.starts, mode="sum", per_sample_weights=values, include_last_offset=True
        )

    def along(self, rows: Float[Tensor, "row d"], W: Float[Tensor, "d_sae d"]) -> Float[Tensor, " pair"]:
        """<rows[row], W[feature]> of every pair: `rows @ W.T` on the code."""
        return self.keep(_dots(rows, W, self))

    def fit(
        self, values: Float[Tensor, " pair"], W: Float[Tensor, "d_sae d"], bias: Tensor, y: Float[Tensor, "row d"]
    ) -> tuple[Float[Tensor, "row d"], Float[Tensor, " pair"]]:
        """The error of `values @ W + bias` at `y`, and that error along W on the code.

        On a CPU few rows at a time: the second pass over their features finds them in the cache.
        """
        if y.device.type != "cpu":
            error = self.decode(values, W) + (bias - y)
            return error, self.along(error, W)
        error, slopes = torch.empty_like(y), torch.empty_like(values)
        starts = self.starts.tolist()
        for first in range(0, len(y), FEW):
            stop = min(first + FEW, len(y))
            a, b = starts[first], starts[stop]
            feature, offsets = self.feature[a:b], self.starts[first : stop + 1] - a
            part = embedding_bag(
                feature, W, offsets, mode="sum", per_sample_weights=values[a:b], include_last_offset=True
            )
            error[first:stop] = part.add_(bias).sub_(y[first:stop])
            slopes[a:b] = _each_dot(error[first:stop], W, feature, offsets[:-1], self.row[a:b] - first)
        return error, self.keep(slopes)

    def outer(self, values: Float[Tensor, " pair"], rows: Float[Tensor, "row d"]) -> Float[Tensor, "d_sae d"]:
        """`values.T @ rows`."""
        order, row, starts = self._by_feature
        rows, values = rows.contiguous(), values[order]
        if values.device.type == "cpu":
            return embedding_bag(row, rows, starts, mode="sum", per_sample_weights=values, include_last_offset=True)
        ends, firsts = self._pieces
        parts = embedding_bag(row, rows, ends, mode="sum", per_sample_weights=values, include_last_offset=True)
        places = torch.arange(len(parts), device=parts.device, dtype=torch.int32)
        return embedding_bag(places, parts, firsts, mode="sum", include_last_offset=True)

    @cached_property
    def _pieces(self) -> tuple[Tensor, Tensor]:
        """Pairs in the order of features cut at each feature and after every `BAG`: where each piece begins, and the
        first piece of each feature, both with their end. A GPU gives a bag to one thread, and these are short.
        """
        starts, n = self._by_feature[2], len(self.feature)
        cuts = torch.arange(0, n, BAG, device=starts.device, dtype=torch.int32)
        ends = torch.cat([cuts, starts]).sort().values
        return ends, torch.searchsorted(ends, starts, out_int32=True)

    def per_feature(self, values: Float[Tensor, " pair"]) -> Float[Tensor, " d_sae"]:
        """Sum of `values` over rows."""
        if values.device.type == "cpu":
            return torch.bincount(self.feature, values.double(), minlength=self.d_sae).to(values.dtype)
        ones = torch.ones(len(self.starts) - 1, 1, dtype=values.dtype, device=values.device)
        return self.outer(values, ones).flatten()  # bincount adds in no fixed order there

    def per_row(self, values: Float[Tensor, " pair"]) -> Float[Tensor, " row"]:
        """Sum of `values` over features."""
        ones = torch.ones(self.d_sae, 1, dtype=values.dtype, device=values.device)
        return self.decode(values, ones).flatten()

    def fired(self, values: Float[Tensor, " pair"]) -> Int[Tensor, " d_sae"]:
        """At how many rows `values` is not zero."""
        if values.device.type == "cpu":
            return torch.bincount(self.feature[values != 0], minlength=self.d_sae)
        order, _, starts = self._by_feature
        before = torch.nn.functional.pad((values != 0)[order].cumsum(0), (1, 0))
        return before[starts.long()].diff()

    def lowest(self) -> Float[Tensor, ""]:
        """The smallest pre-activation that counts; infinite where none does."""
        counting = self.pre if self.on is None else self.pre.where(self.on, torch.inf)
        return torch.nn.functional.pad(counting, (0, 1), value=torch.inf).min()

    def chosen(self, which: Bool[Tensor, " pair"]) -> Pairs:
        """Those where `which` is True count; on a CPU, no others are kept (but where some do not count already)."""
        if self.feature.device.type != "cpu" or self.on is not None:
            return replace(self, on=which if self.on is None else self.on & which)
        return self._without(which)

    def spread(self, which: Bool[Tensor, " pair"], values: Float[Tensor, " some"]) -> Float[Tensor, " pair"]:
        """`values` on `chosen(which)` as values on this code."""
        return values if len(values) == len(which) else torch.zeros_like(self.pre).masked_scatter_(which, values)

    def counting(self) -> Pairs:
        """The same code with the pairs that count and no others."""
        return self if self.on is None else replace(self, on=None)._without(self.on)

    def _without(self, which: Bool[Tensor, " pair"]) -> Pairs:
        before = torch.cat([which.new_zeros(1, dtype=torch.int32), which.cumsum(0, dtype=torch.int32)])
        return Pairs(before[self.starts.long()], self.feature[which], self.pre[which], self.d_sae)

    def between(self, first: int, stop: int) -> Bool[Tensor, " pair"]:
        """Which pairs are of features `first` to `stop`."""
        return (self.feature >= first) & (self.feature < stop)


@dataclass(frozen=True)
class Grid:
    """Active latents as a matrix: the pre-activations [row, d_sae], and `mask` where they count."""

    pre: Float[Tensor, "row d_sae"]
    mask: Bool[Tensor, "row d_sae"]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.pre.shape[1]

    def keep(self, values: Float[Tensor, "#row d_sae"]) -> Float[Tensor, "row d_sae"]:
        """`values`, of every row or the same for all, on the code: zero off the mask."""
        return values * self.mask

    def of_feature(self, values: Float[Tensor, " d_sae"]) -> Float[Tensor, "1 d_sae"]:
        """A number a feature, for every row."""
        return values[None, :]

    def of_row(self, values: Float[Tensor, " row"]) -> Float[Tensor, "row 1"]:
        """A number a row, for every feature."""
        return values[:, None]

    def decode(self, values: Float[Tensor, "row d_sae"], W: Float[Tensor, "d_sae d"]) -> Float[Tensor, "row d"]:
        """`values @ W`."""
        return values @ W

    def along(self, rows: Float[Tensor, "row d"], W: Float[Tensor, "d_sae d"]) -> Float[Tensor, "row d_sae"]:
        """`rows @ W.T` on the code."""
        return (rows @ W.T) * self.mask

    def fit(
        self, values: Float[Tensor, "row d_sae"], W: Float[Tensor, "d_sae d"], bias: Tensor, y: Float[Tensor, "row d"]
    ) -> tuple[Float[Tensor, "row d"], Float[Tensor, "row d_sae"]]:
        """The error of `values @ W + bias` at `y`, and that error along W on the code."""
        error = self.decode(values, W) + (bias - y)
        return error, self.along(error, W)

    def outer(self, values: Float[Tensor, "row d_sae"], rows: Float[Tensor, "row d"]) -> Float[Tensor, "d_sae d"]:
        """`values.T @ rows`."""
        return values.T @ rows

    def per_feature(self, values: Float[Tensor, "row d_sae"]) -> Float[Tensor, " d_sae"]:
        """Sum of `values` over rows."""
        return values.sum(0)

    def per_row(self, values: Float[Tensor, "row d_sae"]) -> Float[Tensor, " row"]:
        """Sum of `values` over features."""
        return values.sum(1)

    def fired(self, values: Float[Tensor, "row d_sae"]) -> Int[Tensor, " d_sae"]:
        """At how many rows `values` is not zero."""
        return (values != 0).sum(0)


Code = Pairs | Grid


def from_flat(flat: Int[Tensor, " pair"], pre: Float[Tensor, " pair"], rows: int, d_sae: int) -> Pairs:
    """Pairs whose places in a matrix [rows, d_sae] are `flat`, rising."""
    row = torch.div(flat, d_sae, rounding_mode="floor")
    edges = torch.arange(rows + 1, device=flat.device, dtype=row.dtype)
    starts = torch.searchsorted(row, edges, out_int32=True)
    return Pairs(starts, (flat - row * d_sae).int(), pre, d_sae)


@cache
def _hush_beta_warning() -> None:
    """Torch warns once that its sparse matrices are in beta: let it be here, unheard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1))


def _dots(rows: Tensor, W: Tensor, code: Pairs) -> Tensor:
    """`along`. MKL's product of two dense matrices at chosen places is the fastest on a CPU that has it."""
    if rows.device.type == "cpu" and torch.backends.mkl.is_available() and rows.dtype in (torch.float32, torch.float64):
        _hush_beta_warning()
        empty = torch.zeros_like(code.pre)
        places = torch.sparse_csr_tensor(code.starts, code.feature, empty, (len(rows), code.d_sae))
        return torch.sparse.sampled_addmm(places, rows.contiguous(), W.T, beta=0).values()
    return _each_dot(rows.contiguous(), W, code.feature, code.starts[:-1], code.row)


def _each_dot(rows: Tensor, W: Tensor, feature: Tensor, offsets: Tensor, row: Tensor) -> Tensor:
    """embedding_bag's slope at its weights, which are the dot products."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(rows, W, feature, offsets, row, 0, -1)
