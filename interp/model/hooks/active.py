"""An edit while its context is open, and the context itself, which warns where nobody opens it."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from types import TracebackType

from interp.model.hooks.editing import Edit
from interp.model.hooks.receipts import Receipt, Receipts


@dataclass(frozen=True)
class Active:
    """An edit while its context is open. `of_gradient`: it changes what flows back through the site instead.

    `read_at`: where gradients were read meanwhile; what flows back ends there.
    """

    site: str
    edit: Edit
    receipt: Receipt
    of_gradient: bool = False
    read_at: set[str] = field(default_factory=set)


def why_never_fired(idle: Sequence[Active]) -> str:
    """Why edits did nothing, and what to do."""
    names = ", ".join(active.receipt.site for active in idle)
    read_at = sorted({site for active in idle for site in active.read_at})
    if read_at and all(active.of_gradient for active in idle):
        several = f"{', '.join(read_at[:3])}{', …' if len(read_at) > 3 else ''}"
        return (
            f"the edit at {names} never fired: gradients were read at {several}, and none flows back through it on the "
            "way there; read gradients at a site before it"
        )
    return (
        f"the edit at {names} never fired: no forward reached it inside `with model.edit(...)`, and one of model.hf "
        "itself is not edited; call model.logits or model.capture (of a later site) inside the context"
        + ("; a gradient is edited in gradients_of" if any(active.of_gradient for active in idle) else "")
    )


class Editing(AbstractContextManager[Receipts]):
    """`with model.edit(...)`: edits while the context is open.

    One that is never opened would do nothing: that is warned of at the model's next forward, or when it is gone.
    """

    def __init__(
        self, context: Callable[[], AbstractContextManager[Receipts]], waiting: weakref.WeakSet[Editing]
    ) -> None:
        self._make, self._waiting = context, waiting
        self._context: AbstractContextManager[Receipts] | None = None
        # unlike __del__, a finalizer also runs before Python takes its modules apart at the end of a script
        self._unopened = weakref.finalize(self, _warn_quietly)
        waiting.add(self)

    def __enter__(self) -> Receipts:
        self._stop_waiting()
        self._context = self._make()
        return self._context.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._context is not None
        return self._context.__exit__(kind, error, trace)

    def warn(self) -> None:
        """Warn, once, that this was not opened: the forward that comes now is not edited by it."""
        self._stop_waiting()
        _warn_of_unopened()

    def _stop_waiting(self) -> None:
        self._unopened.detach()
        self._waiting.discard(self)


def _warn_of_unopened() -> None:
    """Warn in the name of the line outside this package that came here."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("interp.", "weakref")):
        level, frame = level + 1, frame.f_back
    warnings.warn("model.edit(...) was never entered and edits nothing; write: with model.edit(...):", stacklevel=level)


def _warn_quietly() -> None:
    """The same from a finalizer, where no exception is of use: also where warnings are errors."""
    with suppress(Exception):
        _warn_of_unopened()
