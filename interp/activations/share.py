"""Work in pieces that several processes share through one folder: pulled and not dealt, each whole or not there.

Whoever works on a piece says so by a temporary file beside it. That is a courtesy and no lock: where two take the same
piece, both write the same bytes, and one of them is kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from interp.activations.leftovers import find_temporary, is_others, make_temporary
from interp.progress import Stop, never

POLL = 0.5  # seconds between two looks at what others have in hand


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Inside, other processes see that this one works on the piece at `path`."""
    descriptor, temporary = make_temporary(path)
    os.close(descriptor)
    try:
        yield
    finally:
        temporary.unlink(missing_ok=True)


def in_hand(path: Path) -> bool:
    """Is another process at work on the piece at `path`?"""
    return any(is_others(temporary) for temporary in find_temporary(path.parent, path.name))


def free_pieces(
    pieces: Sequence[int],
    path_of: Callable[[int], Path],
    is_there: Callable[[int], bool],
    *,
    wait: bool = False,
    stop: Stop = never,
) -> Iterator[int]:
    """Each piece that is not there and that nobody has in hand, to be made before the next is asked for.

    Then those that were in hand and whose maker has gone. `wait`: until every piece is there, or `stop` says to end;
    otherwise what is still in another's hand is left to it.
    """
    left, last = list(pieces), False
    while left:
        others: list[int] = []
        for index in left:
            if stop():
                return
            if is_there(index):
                continue
            if in_hand(path_of(index)):
                others.append(index)
            else:
                yield index
        if others == left and not wait and last:
            return
        if others and wait:
            time.sleep(POLL)
        left, last = others, True
