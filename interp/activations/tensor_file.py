"""Safetensors files: laid out before they are written, mapped into memory when they are read."""

from __future__ import annotations

import json
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import xxhash
from torch import Tensor

from interp.activations.files import new_file, write_at
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
    """A tensor in a file: where its bytes begin and end in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class FileLayout:
    """A safetensors file before it is written: its header, where each tensor lies, and its size."""

    header: bytes
    fields: dict[str, Field]
    size: int


def lay_out_file(tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]], note: Mapping[str, str]) -> FileLayout:
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
    return FileLayout(struct.pack("<Q", len(text)) + text, fields, begin + at)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
    """A file of its own, whole or not at all, with `note` (ready for JSON) and a hash of both in its header."""
    if odd := [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in NAMES]:
        raise UserError(f"cannot write {', '.join(odd)}; expected one of {', '.join(NAMES.values())}")
    raw = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(dict(note))
    kept = {"note": text, "hash": _hash(raw, text)}
    layout = lay_out_file({name: (tensor.dtype, tensor.shape) for name, tensor in raw.items()}, kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path, layout.size) as file:
        write_at(file.descriptor, memoryview(layout.header), 0)
        for name, tensor in raw.items():
            write_at(file.descriptor, _bytes(tensor), layout.fields[name].start)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and note of a file that `write_tensors` wrote. Raises UserError for any other, and for changed bytes."""
    try:
        tensors, kept = map_tensors(path), read_note(path)
        if kept["hash"] == _hash(tensors, kept["note"]):
            return tensors, json.loads(kept["note"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, struct.error, UserError) as error:
        why = "it is damaged" if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"cannot read {path} ({why}); expected a file that was saved here; make it again") from error
    raise UserError(f"{path} is damaged: its numbers are not those that were written; make it again")


def read_note(path: Path) -> dict[str, str]:
    """The words beside the tensors in a safetensors file. Raises ValueError, KeyError or struct.error without any."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))["__metadata__"]


def note_of(path: Path) -> dict[str, Any] | None:
    """The note of a file that `write_tensors` wrote, at the cost of its header; None where there is no such file."""
    try:
        return json.loads(read_note(path)["note"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def _hash(tensors: Mapping[str, Tensor], note: str) -> str:
    digest = xxhash.xxh3_128(note.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(_bytes(tensors[name]))
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
                if not 0 <= start <= stop <= size:
                    raise IndexError(f"{name} lies at bytes {start} to {stop} of {size}")
                out[name] = whole[start:stop].view(dtypes[entry["dtype"]]).view(entry["shape"])
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged; `interp store verify` says what is, and how to fix it") from error
    return out


class Maps:
    """Files that are mapped into memory, those read last: a process may have some 65,000 mappings, and no more.

    A mapping that is let go stays while somebody holds a tensor of it. Several threads may ask.
    """

    def __init__(self, most: int = 1024) -> None:
        self._most, self._held, self._lock = most, OrderedDict[int, dict[str, Tensor]](), Lock()

    def get(self, index: int) -> dict[str, Tensor] | None:
        """The tensors of a file; None where it is not held."""
        with self._lock:
            if index in self._held:
                self._held.move_to_end(index)
            return self._held.get(index)

    def keep(self, index: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hold a file, and let go of the one that was not asked for the longest."""
        with self._lock:
            self._held[index] = tensors
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return tensors
