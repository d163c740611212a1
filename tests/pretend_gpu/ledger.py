"""The ledger: what a GPU would be asked for, by line of the code that asked.

`kernel`: work for the card. `wait`: the host waits until the card has done all before. `upload`: a copy from memory
that is not pinned, for which the host waits too. `late`: a copy from or to pinned memory, beside everything else.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch

What = Literal["kernel", "wait", "upload", "late"]
FOLDERS = ("/interp/", "/probes/")
BOOLS = (torch.bool, torch.uint8)
# Operators whose result has a size, or a value, that the host must know before it can go on.
WAITS = {
    "_local_scalar_dense": 1, "nonzero": 1, "masked_select": 1, "_unique2": 1, "unique_dim": 1, "equal": 1,
    "unique_consecutive": 1, "bincount": 2, "multinomial": 2, "_linalg_svd": 1, "_linalg_eigh": 1, "linalg_lstsq": 1,
    "linalg_inv_ex": 1, "histc": 1,
}  # fmt: skip
NO_WORK = ("_local_scalar_dense", "lift_fresh")


class Ledger:
    """Counts by kind and line; lines are those of files under `folders`, the innermost of the calls."""

    def __init__(self, folders: Sequence[str] = FOLDERS) -> None:
        self.folders = folders
        self.counts: Counter[tuple[What, str, str]] = Counter()  # kind, line, operator

    def note(self, what: What, operator: str, n: int) -> None:
        self.counts[what, self._line(), operator] += n

    def total(self, what: What, line: str = "") -> int:
        """All of a kind, or those of the lines that hold this text."""
        return sum(n for (kind, at, _), n in self.counts.items() if kind == what and line in at)

    def show(self, *kinds: What, per: int = 1, most: int = 25) -> str:
        """A table of the lines that ask for most. `per`: counts are of so many steps."""
        by_line: Counter[tuple[str, str]] = Counter()
        operators: dict[tuple[str, str], set[str]] = {}
        for (kind, line, operator), n in self.counts.items():
            if kind in kinds:
                by_line[kind, line] += n
                operators.setdefault((kind, line), set()).add(operator)
        lines = [f"{kind}: {self.total(kind) / per:g}" for kind in kinds]
        for (kind, line), n in by_line.most_common(most):
            lines.append(f"  {kind:6} {n / per:8.2f}  {line:48} {', '.join(sorted(operators[kind, line])):.60}")
        return "\n".join(lines)

    def _line(self) -> str:
        frame = sys._getframe()
        while frame := frame.f_back:
            file = frame.f_code.co_filename
            folder = next((one for one in self.folders if one in file), None)
            if folder and "site-packages" not in file and "/pretend_gpu/" not in file:
                return f"{file[file.rindex(folder) + 1 :]}:{frame.f_lineno}"
        return "?"


_open: list[Ledger] = []


@contextmanager
def watch(*folders: str) -> Iterator[Ledger]:
    """Inside, all that the cards are asked for is written down."""
    ledger = Ledger(folders or FOLDERS)
    _open.append(ledger)
    try:
        yield ledger
    finally:
        _open.remove(ledger)


def note(what: What, operator: str, n: int = 1) -> None:
    for ledger in _open:
        ledger.note(what, operator, n)


def note_operator(name: str, args: Any, kwargs: Any) -> None:
    """A kernel, and the waits that it makes."""
    if not _open:
        return
    if name not in NO_WORK:
        note("kernel", name)
    waits = WAITS.get(name, 0)
    if name in ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"):
        masks = sum(i is not None and i.dtype in BOOLS for i in args[1])
        one_value = "put" in name and masks == len(args[1]) == 1 and args[2].numel() == 1  # a masked_fill
        waits = 0 if one_value else masks
    elif name == "repeat_interleave" and kwargs.get("output_size") is None:
        waits = 1
    if waits:
        note("wait", name, waits)
