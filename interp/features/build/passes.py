"""Build an index: one pass over a corpus writes what fires where, and everything else is worked out from that.

The pass runs the model as far as the SAE's site, codes every row, and keeps the firings in pieces on disk, each whole
or not there. So a build that was killed goes on, several workers share the pieces, and neither their number nor the
batch changes a byte that is worked out from them. Workers that find all pieces there finish together, in parts of some
features (statistics, labels, neighbours, logits) and pieces of some sequences (ablations); one joins these,
`index.json` comes last, and with it the folder is an index.

Memory holds one piece, one run of features, and some 40 bytes for every token of the corpus.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch

from interp.activations.capture import Worker
from interp.activations.leftovers import clear_leftovers
from interp.activations.share import POLL, claimed, free_pieces, in_hand
from interp.errors import UserError
from interp.features.build.assemble import assemble, effects_of
from interp.features.build.coder import Coder
from interp.features.build.cofirings import FILE as BY_ROW
from interp.features.build.effects import PIECES as EFFECTS
from interp.features.build.firings import PIECES as FIRINGS
from interp.features.build.firings import is_right, is_there, piece_path, write_piece
from interp.features.build.inputs import Building
from interp.features.build.parts import PARTS as OF_FEATURES
from interp.features.build.parts import Corpus, write_parts
from interp.features.build.plan import PLAN, IndexPlan, begin
from interp.features.read.index import Index, open_index
from interp.features.read.layout import RECORD
from interp.paths import expand

NEEDED = (PLAN, FIRINGS, OF_FEATURES, BY_ROW, EFFECTS)  # until there is an index
PARTS = ("*.json", "*.npy", "*.txt", *NEEDED)  # names that a build writes under temporary ones first


def build_index(building: Building, worker: Worker | None = None) -> Index | None:
    """Build what is not there yet, and return the index; None where pieces of other workers lack, or it was stopped.

    Raises UserError for a folder that holds something else, for rows that are not finite, and for a full disk.
    """
    worker, folder = worker or Worker(), building.folder
    asked = building.stop
    building = replace(building, stop=lambda: asked() or (folder / RECORD).exists())  # another worker finished it
    try:
        if not begin(folder, building.plan):
            clear_leftovers(folder, *PARTS)
            finished = _write_pieces(building, worker) and _finish(building)
            if not finished and not (folder / RECORD).exists():
                return None
        _clear(folder)
        return open_index(folder)
    except OSError as error:
        if (folder / RECORD).exists():  # what this one read was no longer needed, and is gone
            return open_index(folder)
        raise UserError(
            f"cannot write to {folder}: {error.strerror or error}; what is whole is kept; free some space and run the "
            "same command again"
        ) from error


def _finish(building: Building) -> bool:
    """Work out everything from the firings, together with the other workers that are there; False when stopped."""
    corpus = Corpus(building, building.coder())
    if not write_parts(corpus) or (effects := effects_of(corpus)) is None:
        return False
    with _alone(building.folder) as is_first:
        if is_first:
            assemble(corpus, effects)
    return True


def missing_pieces(folder: str | Path, plan: IndexPlan) -> list[int]:
    """Pieces of the pass that are not there yet."""
    folder = expand(folder)
    return [i for i in range(len(plan.pieces)) if not is_there(folder, i, plan.hash)]


def _write_pieces(building: Building, worker: Worker) -> bool:
    """Write this worker's pieces, and wait for those that others are at; are all of them there?"""
    folder, plan = building.folder, building.plan
    mine = range(worker.index, len(plan.pieces), worker.count)
    todo = [i for i in mine if not is_right(folder, i, plan.hash)]
    for index in todo:  # a damaged one is made again
        piece_path(folder, index).unlink(missing_ok=True)
    total = sum(plan.pieces[i][3] - plan.pieces[i][2] for i in todo)
    coder = building.coder() if todo else None
    done = 0
    for index in free_pieces(
        todo, lambda i: piece_path(folder, i), lambda i: is_there(folder, i, plan.hash), stop=building.stop
    ):
        assert coder is not None
        with claimed(piece_path(folder, index)):
            _write_piece(building, index, coder)
        done += plan.pieces[index][3] - plan.pieces[index][2]
        building.progress("reading the corpus", done, total)
    return _others_end(building)


def _others_end(building: Building) -> bool:
    """Wait while other workers are at pieces; are all of them there?"""
    folder, plan, idle = building.folder, building.plan, False
    while missing := missing_pieces(folder, plan):
        busy = any(in_hand(piece_path(folder, i)) for i in missing)
        if building.stop() or (idle and not busy):
            return False
        idle = not busy
        time.sleep(POLL)
    return True


def _write_piece(building: Building, index: int, coder: Coder) -> None:
    plan, tokens = building.plan, building.tokens
    *_, first, _ = piece = plan.pieces[index]
    rows = building.rows(piece)
    norm = rows.norm(dim=1)
    if not bool(torch.isfinite(norm).all()):
        bad = first + int((~torch.isfinite(norm)).nonzero()[0])
        document = int(tokens.document[bad])
        raise UserError(
            f"{plan.sae['site']} holds NaN or infinity at token {int(tokens.position[bad])} of "
            f"{tokens.files[tokens.file[document]]} row {tokens.row[document]}; capture it in fp32"
        )
    write_piece(building.folder, index, plan.hash, first, coder(rows), norm)


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
    for pattern in NEEDED:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
