"""What the explorer shows: an index, and what may stand beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from interp.features.read.index import Index
from interp.features.read.prompts import Live

WEAK = 0.1  # a label whose score is below says hardly more than chance


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

    @cached_property
    def best_named(self) -> int:
        """The feature whose label predicts it best: one to begin with."""
        score = self.index["label_score"]
        return 0 if np.isnan(score).all() else int(np.nanargmax(score))
