"""Another forward in a module's place, for a while: compiled, handing its input on, one text at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def forwards_replaced(modules: Sequence[nn.Module], make: Callable[[Any], Any]) -> Iterator[None]:
    """Inside, each module's forward is what `make` gives for its own; then it is what it was, also where that was set.

    accelerate, and users, set a forward on the module itself: that one is put back.
    """
    before = [vars(module).get("forward") for module in modules]
    for module in modules:
        module.forward = make(module.forward)
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            if own is None:
                del module.forward
            else:
                module.forward = own
