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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from interp.activations.capture import Worker
from interp.activations.leftovers import clear_leftovers
from interp.errors import UserError
from interp.features.build.assemble import finish
from interp.features.build.effects import PIECES as EFFECTS
from interp.features.build.firings import PIECES as FIRINGS
from interp.features.build.firings import is_there, write_piece
from interp.features.build.inputs import Building
from interp.features.build.plan import PLAN, IndexPlan, begin
from interp.features.read.index import Index, open_index
from interp.features.read.layout import RECORD
from interp.paths import expand

PARTS = ("*.json", "*.npy", "*.txt", FIRINGS, EFFECTS)  # names that a build writes under temporary ones first


def build_index(building: Building, worker: Worker | None = None) -> Index | None:
    """Build what is not there yet, and return the index; None where pieces of other workers lack, or it was stopped.

    Raises UserError for a folder that holds something else, for rows that are not finite, and for a full disk.
    """
    worker, folder, plan = worker or Worker(), building.folder, building.plan
    try:
        if begin(folder, plan):
            _clear(folder)
            return open_index(folder)
        clear_leftovers(folder, *PARTS)
        _write_pieces(building, [i for i in range(len(plan.pieces)) if i % worker.count == worker.index])
        if building.stop():
            return None
        if missing_pieces(folder, plan):  # or another worker has finished meanwhile, and they are gone
            return open_index(folder) if (folder / RECORD).exists() else None
        with _alone(folder) as is_first:
            if is_first and not finish(building):
                return None
            _clear(folder)
            return open_index(folder)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror or error}; what is whole is kept; free some space and run the "
            "same command again"
        ) from error


def missing_pieces(folder: str | Path, plan: IndexPlan) -> list[int]:
    """Pieces of the pass that are not there yet."""
    folder = expand(folder)
    return [i for i in range(len(plan.pieces)) if not is_there(folder, i, plan.hash)]


def _write_pieces(building: Building, mine: list[int]) -> None:
    plan, tokens = building.plan, building.tokens
    todo = [i for i in mine if not is_there(building.folder, i, plan.hash)]
    total = sum(plan.pieces[i][3] - plan.pieces[i][2] for i in todo)
    coder = building.coder() if todo else None
    done = 0
    for index in todo:
        *_, first, stop = piece = plan.pieces[index]
        rows = building.rows(piece)
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
        building.progress("reading the corpus", done, total)
        if building.stop():
            return


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """One worker finishes; the others wait. False where another one has finished meanwhile."""
    try:
        descriptor = os.open(folder / PLAN, os.O_RDWR)  # NFS locks no other
    except FileNotFoundError:
        yield False
        return
    try:
        with suppress(OSError):  # a file system without locks: doing it twice is harmless
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield not (folder / RECORD).exists()
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> None:
    """What the index no longer needs; an index that was killed here is whole, and its next build comes by."""
    for pattern in (PLAN, FIRINGS, EFFECTS):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
