"""What the explorer shows: an index, and what may stand beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from interp.features.index import Index
from interp.features.prompts import Live


@dataclass(frozen=True)
class Context:
    """`index` is shown. `beside`: a second index to compare with. `live`: a model, for prompts; `runs`: saved runs."""

    index: Index
    beside: Index | None = None
    live: Live | None = None
    runs: Path | None = None

    @cached_property
    def names(self) -> dict[int, str]:
        """Labels by feature."""
        return {number: label.text for number, label in enumerate(self.index.labels)}
