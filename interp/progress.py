"""The one callback that tells how far long work is, and the one question that ends it early.

Every function that takes a while has `progress: Progress = silent` (or `Progress | None = None`) and, where it can stop
and go on later, `stop: Stop = never`. Nothing here draws: the command line hands in a bar, a test a function.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""`progress(what, done, total)`: `what` is being done, in words that fit before a bar ("reading the corpus"); `done` of
`total` units of it are finished. `total` is 0 where nobody knows it. It may be called as often as convenient and must
return quickly; an exception that it raises ends the work."""

Stop = Callable[[], bool]
"""`stop()`: shall the work end after the unit in hand? It is asked between units, and nothing finished is lost."""


def labelled(progress: Progress, what: str) -> Progress:
    """The same `Progress` with the caller's words instead of those of the function that it is handed to."""
    return lambda _, done, total: progress(what, done, total)


def silent(what: str, done: int, total: int) -> None:
    """The `Progress` that shows nothing."""


def never() -> bool:
    """The `Stop` that lets the work run to its end."""
    return False
