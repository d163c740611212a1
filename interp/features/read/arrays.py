"""Read the files of an index, which may be damaged, or made by somebody who means harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.errors import UserError
from interp.features.read.layout import ARRAYS


def inside(folder: Path, name: str) -> Path:
    """The path of a file of the index, which must lie in its folder: a link could show any file of this machine."""
    path = folder / name
    if not path.is_file():
        raise UserError(f"{folder} lacks {name}; build the index again")
    if path.is_symlink():
        raise UserError(f"{path} is a link; expected a file of the index itself; copy the index with its files")
    return path


def map_array(folder: Path, name: str, sizes: dict[str, int]) -> NDArray[Any]:
    """One of `layout.ARRAYS`, mapped into memory, of the shape that the sizes say. Raises UserError for another."""
    path = inside(folder, f"{name}.npy")
    kind = ARRAYS[name]
    shape = tuple(sizes[axis.removesuffix("+1")] + axis.endswith("+1") for axis in kind.axes)
    try:
        mapped = (
            np.load(path, mmap_mode="r", allow_pickle=False) if np.prod(shape) else np.load(path, allow_pickle=False)
        )
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise damaged(path, str(error)) from error
    if mapped.dtype.str != kind.dtype or mapped.shape != shape:
        raise damaged(path, f"{mapped.dtype} {mapped.shape} instead of {np.dtype(kind.dtype)} {shape}")
    return mapped


def read_list(path: Path) -> list[Any]:
    """A list in JSON. Raises UserError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(found, list):
        raise damaged(path, "no list")
    return found


def number_of(value: Any) -> float:
    """A number as JSON holds it: NaN is null there."""
    return float("nan") if value is None else float(value)


def damaged(path: Path, why: str) -> UserError:
    """The error for a file that is not what was written."""
    return UserError(f"{path} is damaged ({why}); build the index again with the same command")
