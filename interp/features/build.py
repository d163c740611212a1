"""Build an index: one pass over a corpus writes what fires where, and everything else is worked out from that.

The pass runs the model as far as the SAE's site, codes every row, and keeps the firings in pieces on disk, each whole
or not there. So a build that was killed goes on, several workers share the pieces, and neither their number nor the
batch changes a byte that is worked out from them. Whoever finds all pieces there finishes: statistics feature by
feature, neighbours, logits, ablations, labels; `index.json` comes last, and with it the folder is an index.

Memory holds one piece, one run of features, and some 40 bytes for every token of the corpus.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.activations.capture import Worker
from interp.activations.files import clear_leftovers
from interp.activations.plan import batches_of
from interp.activations.rows import SINK_FACTOR, read_rows, taps_of
from interp.activations.store import Store
from interp.activations.token_table import Tokens
from interp.errors import UserError
from interp.features.coder import Coder
from interp.features.effects import PIECES as EFFECTS
from interp.features.firings import PIECES, is_there, write_piece
from interp.features.index import Index, open_index
from interp.features.layout import RECORD
from interp.features.plan import PLAN, IndexPlan, begin
from interp.model.model import Model
from interp.model.taps import Tap
from interp.saes.load import SAE, site_of

Tell = Callable[[str, int, int], None]
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
    tell: Tell = lambda what, done, total: None
    stop: Callable[[], bool] = lambda: False

    @cached_property
    def taps(self) -> dict[str, Tap]:
        """Where the plain model shows the site; none where it does not. Looked for once: it takes a forward or two."""
        return taps_of(self.model, [site_of(self.sae)])


def build_index(building: Building, worker: Worker | None = None) -> Index | None:
    """Build what is not there yet, and return the index; None where pieces of other workers lack, or it was stopped.

    Raises UserError for a folder that holds something else, for rows that are not finite, and for a full disk.
    """
    worker, folder, plan = worker or Worker(), building.folder, building.plan
    try:
        if begin(folder, plan):
            return open_index(folder)
        clear_leftovers(folder, "*")
        _write_pieces(building, [i for i in range(len(plan.pieces)) if i % worker.count == worker.index])
        if building.stop() or (missing_pieces(folder, plan)):
            return None
        with _alone(folder) as is_first:
            return _finish(building) if is_first else open_index(folder)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror or error}; what is whole is kept; free some space and run the "
            "same command again"
        ) from error


def missing_pieces(folder: Path, plan: IndexPlan) -> list[int]:
    """Pieces of the pass that are not there yet."""
    return [i for i in range(len(plan.pieces)) if not is_there(folder, i, plan.hash)]


def _write_pieces(building: Building, mine: list[int]) -> None:
    plan, tokens = building.plan, building.tokens
    todo = [i for i in mine if not is_there(building.folder, i, plan.hash)]
    total = sum(plan.pieces[i][3] - plan.pieces[i][2] for i in todo)
    coder = coder_of(building) if todo else None
    done = 0
    for index in todo:
        *_, first, stop = piece = plan.pieces[index]
        rows = _rows_of(building, piece)
        norm = rows.norm(dim=1)
        if not bool(torch.isfinite(norm).all()):
            bad = first + int((~torch.isfinite(norm)).nonzero()[0])
            document = int(tokens.document[bad])
            raise UserError(
                f"{plan.sae['site']} holds NaN or infinity at token {int(tokens.position[bad])} of "
                f"{tokens.files[tokens.file[document]]} row {tokens.row[document]}; capture it in fp32"
            )
        assert coder is not None
        write_piece(building.folder, index, plan.hash, first, coder(rows), norm)
        done += stop - first
        building.tell("reading the corpus", done, total)
        if building.stop():
            return


def coder_of(building: Building) -> Coder:
    """The coder, which has tried its ways on the corpus' first sequences."""
    starts = building.tokens.starts
    last = min(SAMPLE, len(starts) - 1)
    return Coder(building.sae, _rows_of(building, (0, last, 0, int(starts[last]))))


def _rows_of(building: Building, piece: tuple[int, int, int, int]) -> Tensor:
    """The activations of some sequences, in the order of rows, in fp32."""
    site, (*_, first, stop) = site_of(building.sae), piece
    if building.store is not None:
        return building.store.rows(site, first, stop).float()
    model, tokens = building.model, building.tokens
    out = torch.empty(stop - first, building.sae.cfg.d_in)
    for batch in batches_of(tokens, piece, building.plan.capture["batch_tokens"]):
        sequences = [tokens.sequence(i).tolist() for i in batch]
        rows = read_rows(model, sequences, [site], len(sequences), building.taps)[site].float().cpu()
        for i, part in zip(batch, rows.split([len(s) for s in sequences]), strict=True):
            at = int(tokens.starts[i]) - first
            out[at : at + len(part)] = part
    return out


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """One worker finishes; the others wait. False where another one has finished meanwhile."""
    try:
        descriptor = os.open(folder / PLAN, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield not (folder / RECORD).exists()
    finally:
        os.close(descriptor)


def _finish(building: Building) -> Index | None:
    from interp.features.finish import finish

    if not finish(building):
        return None
    for pattern in (PLAN, PIECES, EFFECTS):
        for path in building.folder.glob(pattern):
            path.unlink()
    return open_index(building.folder)


def find_sinks_of(norm: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """As a store finds them: the first row of each sequence, and every row of over ten times the median norm."""
    norms = torch.from_numpy(norm)
    sinks = (norms > SINK_FACTOR * norms.median()).numpy()
    sinks[starts[:-1]] = True
    return sinks
