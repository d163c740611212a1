"""One shard of a store: a safetensors file with several sites' rows, written in place and hashed.

    shard-00003.safetensors    per site: values [row, …], and of the values as stored their norms [row], sums and sums
                               of squares [d] over the shard's rows
    shard-00003.json           its seal: plan, size and hash; there only when the shard is whole

Everything is written under a temporary name, fsynced and renamed, the seal last. So a kill at any moment leaves whole
shards and nothing else that counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from interp.errors import UserError

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int32: "I32",
    torch.int64: "I64",
}
BLOCK = 1 << 24


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
        wide = stored.float()
        if not bool(real.all()):
            wide = wide.masked_fill(~real[..., None], 0.0)
        squares = wide.square()
        norms = squares.sum(-1).sqrt()
        if not bool(norms.isfinite().all()):
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


@dataclass
class NewFile:
    """A file in the making. `hash` is known when it is done."""

    descriptor: int
    hash: str = ""


@contextmanager
def new_file(path: Path, size: int | None = None, *, first: bool = False) -> Iterator[NewFile]:
    """A temporary file that becomes `path`, fsynced and hashed, when the block succeeds, and else vanishes.

    With `first`, a file that another process put there meanwhile stays, and this one vanishes.

    It is locked while its process lives: `clear_leftovers` tells by that whether anybody still writes it.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if size is not None:
            os.truncate(descriptor, size)
        made = NewFile(descriptor)
        yield made
        os.fchmod(descriptor, 0o644)  # mkstemp's 0600 would hide a shared store from colleagues
        with ThreadPoolExecutor(1) as beside:  # the disk writes while a core hashes
            synced = beside.submit(os.fsync, descriptor)
            made.hash = hash_descriptor(descriptor)
            synced.result()
        if first:
            with suppress(FileExistsError):
                os.link(temporary, path)
        else:
            Path(temporary).replace(path)
        sync_folder(path.parent)
    finally:
        os.close(descriptor)
        Path(temporary).unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files of processes that were killed, and return them."""
    gone = []
    for pattern in (".plan.json.*", ".tokens.safetensors.*", ".shard-[0-9]*.*"):
        for left in folder.glob(pattern):
            with suppress(OSError), left.open("rb") as file:  # OSError: somebody still writes it, or it is gone already
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
                gone.append(left)
    return gone


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_sealed(path: Path, record: Mapping[str, Any], *, first: bool = False) -> None:
    """Write JSON that can tell whether a byte of it was changed, by the hash of the rest. `first` as in `new_file`."""
    with new_file(path, first=first) as file:
        os.write(file.descriptor, _sealed(record).encode())


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What `write_sealed` wrote, or None if the file is not byte for byte what that would write."""
    try:
        text = path.read_bytes().decode("ascii")
        record = json.loads(text)
        return record if record.pop("seal", None) and _sealed(record) == text else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _sealed(record: Mapping[str, Any]) -> str:
    body = json.dumps(record, sort_keys=True)
    return json.dumps({**record, "seal": hashlib.sha256(body.encode()).hexdigest()}, indent=1, sort_keys=True) + "\n"


def hash_file(path: Path) -> str:
    """XXH3 (128 bits) of a file: finds any damage, at the speed of memory; no protection from malice."""
    with path.open("rb", buffering=0) as file:
        return hash_descriptor(file.fileno())


def hash_descriptor(descriptor: int) -> str:
    """`hash_file` of an open file."""
    digest, buffer, at = xxhash.xxh3_128(), bytearray(BLOCK), 0
    while n := os.preadv(descriptor, [buffer], at):
        digest.update(memoryview(buffer)[:n])
        at += n
    return f"xxh3:{digest.hexdigest()}"


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


def write_at(descriptor: int, data: memoryview, at: int) -> None:
    """Write all of `data` at an offset."""
    while data:  # a signal or a full pipe of the kernel's may cut a write short
        n = os.pwrite(descriptor, data, at)
        data, at = data[n:], at + n
