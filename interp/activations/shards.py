"""One shard of a store: a safetensors file with several sites' rows, written in place and hashed.

    shard-00003.safetensors    per site: values [row, …], and of the values as stored their norms [row], sums and sums
                               of squares [d] over the shard's rows
    shard-00003.json           its seal: plan, size and hash; there only when the shard is whole

Everything is written under a temporary name, fsynced and renamed, the seal last. So a kill at any moment leaves whole
shards and nothing else that counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from interp.activations.files import write_at
from interp.activations.tensor_file import FileLayout, lay_out_file
from interp.errors import UserError
from interp.model.hooks.host import known


class ShardWriter:
    """Writes rows of several sites at their places in one file. Made by `new_shard`."""

    def __init__(self, descriptor: int, layout: FileLayout, sites: Mapping[str, Sequence[int]], first_row: int) -> None:
        self._descriptor, self._layout, self._first = descriptor, layout, first_row
        self._sums: dict[str, list[tuple[int, NDArray[np.float64]]]] = {site: [] for site in sites}
        self._widths = {site: prod(shape) for site, shape in sites.items()}
        self._norms = {site: np.empty(layout.fields[f"{site}#norm"].shape, np.float32) for site in sites}

    def put(self, site: str, rows: Sequence[tuple[int, int]], values: Tensor) -> None:
        """Write one batch at a site: `rows` says which rows each of its sequences is, padding behind them.

        `values` [sequence, pos, …]: any dtype, on any device.
        """
        stored = values.to(self._layout.fields[site].dtype).cpu()
        self.write(site, rows, stored, *measure(stored, real_tokens(rows, stored.shape[1])))

    def write(
        self,
        site: str,
        rows: Sequence[tuple[int, int]],
        stored: Tensor,
        norms: Float[Tensor, "sequence pos"],
        sums: Float[Tensor, "2 d"],
    ) -> None:
        """The same of values as they are stored, in main memory, with what `measure` says of them.

        Several threads may write at once.
        """
        field = self._layout.fields[site]
        stored = stored.contiguous().flatten(2)
        width = stored.shape[-1] * field.dtype.itemsize
        if not bool(norms.isfinite().all()):  # squares reach further than their numbers
            norms, sums = measure(stored.double(), real_tokens(rows, stored.shape[1]))
        if not bool(norms.float().isfinite().all()):
            raise UserError(
                f"{site} holds numbers that {str(field.dtype).removeprefix('torch.')} cannot: store it as bf16 or fp32"
            )
        raw = stored.view(torch.uint8).numpy()
        for i, (first, stop) in enumerate(rows):
            n, at = stop - first, first - self._first
            self._norms[site][at : at + n] = norms[i, :n].numpy()
            write_at(self._descriptor, raw[i, :n].data.cast("B"), field.start + at * width)
        self._sums[site].append((rows[0][0], sums.double().numpy()))

    def close(self) -> None:
        """Write header, norms and moments."""
        write_at(self._descriptor, memoryview(self._layout.header), 0)
        for site, parts in self._sums.items():
            sums = np.zeros((2, self._widths[site]))
            for _, part in sorted(parts, key=lambda one: one[0]):  # in one order, whoever was first
                sums += part
            for name, value in (("norm", self._norms[site]), ("sum", sums[0]), ("sum_of_squares", sums[1])):
                field = self._layout.fields[f"{site}#{name}"]
                write_at(self._descriptor, np.ascontiguousarray(value).data.cast("B"), field.start)


def measure(
    stored: Tensor, real: Bool[Tensor, "sequence pos"]
) -> tuple[Float[Tensor, "sequence pos"], Float[Tensor, "2 d"]]:
    """Norms of the rows, and over all of them the sums and sums of squares of each dimension, padding as zeros.

    Computed where the values are; `stored` [sequence, pos, …].
    """
    wide = stored.flatten(2)
    wide = wide if wide.dtype == torch.float64 else wide.float()
    if not bool(known(real).all()):
        wide = wide.masked_fill(~real[..., None], 0.0)
    squares = wide.square()
    sums = torch.stack([part.flatten(0, 1).sum(0) for part in (wide, squares)])
    return squares.sum(-1).sqrt(), sums


def real_tokens(rows: Sequence[tuple[int, int]], width: int) -> Bool[Tensor, "sequence pos"]:
    """Where the tokens of sequences stand that are padded on the right."""
    return torch.arange(width) < torch.tensor([[stop - first] for first, stop in rows])


def shard_layout(
    sites: Mapping[str, Sequence[int]], rows: int, dtype: torch.dtype, plan_hash: str, index: int
) -> FileLayout:
    """The layout of a shard of `rows` rows; `sites` gives each row's shape."""
    tensors: dict[str, tuple[torch.dtype, Sequence[int]]] = {}
    for site, shape in sites.items():
        tensors[site] = (dtype, (rows, *shape))
        tensors[f"{site}#norm"] = (torch.float32, (rows,))
        tensors[f"{site}#sum"] = (torch.float64, (prod(shape),))
        tensors[f"{site}#sum_of_squares"] = (torch.float64, (prod(shape),))
    return lay_out_file(tensors, {"plan": plan_hash, "shard": str(index)})
