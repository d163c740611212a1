"""The one exception that a user's input can cause, and the helper that suggests the nearest names.

Every message is one line: what came, what was expected, what to do. The command line prints it and exits with
code 2; anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. `str(error)` is one line that names what came, what was expected and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def nearest(name: str, candidates: Iterable[str], n: int = 3) -> list[str]:
    """The `n` candidates that look most like `name`, best first; never empty while there is a candidate."""
    pool = list(dict.fromkeys(candidates))
    return (
        difflib.get_close_matches(name, pool, n=n, cutoff=0.4)
        or sorted(pool, key=lambda c: -difflib.SequenceMatcher(None, name, c).ratio())[:n]
    )


def unknown(kind: str, name: str, candidates: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that matches nothing: `unknown probe 'x'; nearest: 'y', 'z'`."""
    near = ", ".join(repr(c) for c in nearest(name, candidates))
    return UserError(f"unknown {kind} {name!r}; nearest: {near or 'none exist'}{'; ' + hint if hint else ''}")
