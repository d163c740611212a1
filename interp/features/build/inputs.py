"""What a build of an index works with: model, SAE, text, and the rows that they give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.plan import batches_of
from interp.activations.rows import read_rows
from interp.activations.store import Store
from interp.activations.token_table import Tokens
from interp.features.build.coder import Coder
from interp.features.build.plan import IndexPlan
from interp.model.model import Model
from interp.paths import expand
from interp.progress import Progress, Stop, never, silent
from interp.saes.loading.sae import SAE, site_of

SAMPLE = 2  # sequences on which the coder tries its ways


@dataclass(frozen=True)
class Building:
    """What a build works with. `store`: rows on disk; without one the model runs."""

    model: Model
    sae: SAE[Any]
    folder: Path
    plan: IndexPlan
    tokens: Tokens
    store: Store | None = None
    progress: Progress = silent
    stop: Stop = never

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", expand(self.folder))

    def coder(self) -> Coder:
        """What codes rows: it has tried its ways on the corpus' first sequences."""
        starts = self.tokens.starts
        last = min(SAMPLE, len(starts) - 1)
        return Coder(self.sae, self.rows((0, last, 0, int(starts[last]))))

    def rows(self, piece: tuple[int, int, int, int]) -> Float[Tensor, "row d"]:
        """The activations of some sequences (their numbers, and those of their rows), in the order of rows, in fp32."""
        site, (*_, first, stop) = site_of(self.sae), piece
        if self.store is not None:
            return self.store.rows(site, first, stop).float()
        out = torch.empty(stop - first, self.sae.cfg.d_in)
        for batch in batches_of(self.tokens, piece, self.plan.capture["batch_tokens"]):
            sequences = [self.tokens.sequence(i).tolist() for i in batch]
            rows = read_rows(self.model, sequences, [site], len(sequences))[site].float().cpu()
            for i, part in zip(batch, rows.split([len(s) for s in sequences]), strict=True):
                at = int(self.tokens.starts[i]) - first
                out[at : at + len(part)] = part
        return out
