"""One shard of a store: a safetensors file with several sites' rows, written in place and hashed.

    shard-00003.safetensors    per site: values [row, …], and of the values as stored their norms [row], sums and sums
                               of squares [d] over the shard's rows
    shard-00003.json           its seal: plan, size and hash; there only when the shard is whole

Everything is written under a temporary name, fsynced and renamed, the seal last. So a kill at any moment leaves whole
shards and nothing else that counts.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.activations.files import write_at
from interp.errors import UserError

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int32: "I32",
    torch.int64: "I64",
}


@dataclass(frozen=True)
class Field:
    """A tensor in a shard: where its bytes begin and end in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """A safetensors file before it is written: its header, where each tensor lies, and its size."""

    header: bytes
    fields: dict[str, Field]
    size: int


def lay_out(tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]], note: Mapping[str, str]) -> Layout:
    """Lay tensors out one after the other, widest numbers first so that each is aligned."""
    order = sorted(tensors, key=lambda name: -tensors[name][0].itemsize)
    header: dict[str, Any] = {"__metadata__": dict(note)}
    at, spans = 0, {}
    for name in order:
        dtype, shape = tensors[name]
        size = dtype.itemsize * prod(shape)
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        spans[name] = (at, at + size)
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    begin = 8 + len(text)
    fields = {n: Field(tensors[n][0], tuple(tensors[n][1]), begin + a, begin + b) for n, (a, b) in spans.items()}
    return Layout(struct.pack("<Q", len(text)) + text, fields, begin + at)


class ShardWriter:
    """Writes rows of several sites at their places in one file. Made by `new_shard`."""

    def __init__(self, descriptor: int, layout: Layout, sites: Mapping[str, Sequence[int]], first_row: int) -> None:
        self._descriptor, self._layout, self._first = descriptor, layout, first_row
        self._sums = {site: np.zeros((2, prod(shape))) for site, shape in sites.items()}
        self._norms = {site: np.empty(layout.fields[f"{site}#norm"].shape, np.float32) for site in sites}

    def put(self, site: str, rows: Sequence[tuple[int, int]], values: Tensor) -> None:
        """Write one batch at a site: `rows` says which rows each of its sequences is, padding behind them.

        `values` [sequence, pos, …]: any dtype, on any device.
        """
        field = self._layout.fields[site]
        stored = values.to(field.dtype).cpu().contiguous().flatten(2)
        width = stored.shape[-1] * field.dtype.itemsize
        real = torch.arange(stored.shape[1]) < torch.tensor([[stop - first] for first, stop in rows])
        wide, squares, norms = _squared(stored.float(), real)
        if not bool(norms.isfinite().all()):  # squares reach further than their numbers
            wide, squares, norms = _squared(stored.double(), real)
        if not bool(norms.float().isfinite().all()):
            raise UserError(
                f"{site} holds numbers that {str(field.dtype).removeprefix('torch.')} cannot: store it as bf16 or fp32"
            )
        raw = stored.view(torch.uint8).numpy()
        for i, (first, stop) in enumerate(rows):
            n, at = stop - first, first - self._first
            self._norms[site][at : at + n] = norms[i, :n].numpy()
            write_at(self._descriptor, raw[i, :n].data.cast("B"), field.start + at * width)
        for total, part in zip(self._sums[site], (wide, squares), strict=True):
            total += part.flatten(0, 1).sum(0).double().numpy()

    def close(self) -> None:
        """Write header, norms and moments."""
        write_at(self._descriptor, memoryview(self._layout.header), 0)
        for site, sums in self._sums.items():
            for name, value in (("norm", self._norms[site]), ("sum", sums[0]), ("sum_of_squares", sums[1])):
                field = self._layout.fields[f"{site}#{name}"]
                write_at(self._descriptor, np.ascontiguousarray(value).data.cast("B"), field.start)


def _squared(wide: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values, squares and norms, padding as zeros."""
    if not bool(real.all()):
        wide = wide.masked_fill(~real[..., None], 0.0)
    squares = wide.square()
    return wide, squares, squares.sum(-1).sqrt()


def shard_layout(
    sites: Mapping[str, Sequence[int]], rows: int, dtype: torch.dtype, plan_hash: str, index: int
) -> Layout:
    """The layout of a shard of `rows` rows; `sites` gives each row's shape."""
    tensors: dict[str, tuple[torch.dtype, Sequence[int]]] = {}
    for site, shape in sites.items():
        tensors[site] = (dtype, (rows, *shape))
        tensors[f"{site}#norm"] = (torch.float32, (rows,))
        tensors[f"{site}#sum"] = (torch.float64, (prod(shape),))
        tensors[f"{site}#sum_of_squares"] = (torch.float64, (prod(shape),))
    return lay_out(tensors, {"plan": plan_hash, "shard": str(index)})


def map_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory: no byte is copied until it is touched.

    The mapping is private: writing to a tensor changes neither the file nor another reader's view.
    """
    size = path.stat().st_size
    whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8) if size > 8 else torch.empty(0)
    dtypes = {name: dtype for dtype, name in NAMES.items()}
    out = {}
    try:
        length = int(whole[:8].view(torch.int64)[0])
        header = json.loads(bytes(whole[8 : 8 + length].numpy()))
        for name, entry in header.items():
            if name != "__metadata__":
                start, stop = (8 + length + offset for offset in entry["data_offsets"])
                out[name] = whole[start:stop].view(dtypes[entry["dtype"]]).view(entry["shape"])
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; `interp store verify` says what is, and how to mend it") from error
    return out
