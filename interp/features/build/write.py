"""Write the files of an index, each whole or not at all, and keep their hashes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from math import isnan
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.activations.files import new_file, write_at
from interp.features.read.feature import Label
from interp.features.read.layout import ARRAYS, LABELS


class IndexFiles:
    """The files of the index in `folder`; `hashes` by name, for its record."""

    def __init__(self, folder: Path, hashes: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.hashes: dict[str, str] = {} if hashes is None else hashes

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        with new_file(self.folder / name) as file:
            write_at(file.descriptor, memoryview(text.encode("utf-8", errors="replace")), 0)
        self.hashes[name] = file.hash

    def labels(self, labels: Sequence[Label]) -> None:
        """Write the labels, and the array of their scores."""
        self.text(
            LABELS, json.dumps([[one.text, *(None if isnan(v) else v for v in one[1:4]), one.by] for one in labels])
        )
        self.array("label_score", np.array([one.score for one in labels]))

    def array(self, name: str, values: NDArray[Any]) -> None:
        """Write one of `layout.ARRAYS`."""
        with self.stream(name, values.shape) as put:
            put(values)

    def stream(self, name: str, shape: tuple[int, ...]) -> ArrayStream:
        """One of `layout.ARRAYS` to be written in parts: `with files.stream(…) as put: put(part)`."""
        return ArrayStream(self, name, shape)


class ArrayStream:
    """An array that is written in parts, in numpy's format."""

    def __init__(self, files: IndexFiles, name: str, shape: tuple[int, ...]) -> None:
        self.files, self.name, self.dtype, self.shape = files, name, np.dtype(ARRAYS[name].dtype), shape

    def __enter__(self) -> ArrayStream:
        self._context = new_file(self.files.folder / f"{self.name}.npy")
        self._file = self._context.__enter__()
        header = BytesIO()
        told = {"descr": self.dtype.str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(header, told)
        write_at(self._file.descriptor, header.getbuffer(), 0)
        self._at = header.tell()
        return self

    def __call__(self, values: NDArray[Any]) -> None:
        """Add a part."""
        part = np.ascontiguousarray(values, self.dtype)
        if part.nbytes:
            write_at(self._file.descriptor, part.reshape(-1).view(np.uint8).data, self._at)
        self._at += part.nbytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)
        if error is None:
            self.files.hashes[f"{self.name}.npy"] = self._file.hash
