"""One file an architecture: its settings, its training step with gradients written out, and its SAELens class.

Forward mathematics and losses are sae-lens' (its training classes are the reference that the tests hold these against);
what differs is that no step builds a graph or a dense matrix that a sparse one can replace.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from interp.errors import unknown
from interp.saes.training.architectures.base import Architecture


@cache
def architectures() -> dict[str, Architecture]:
    """Every architecture by its name: those whose file in this folder defines `ARCHITECTURE`."""
    modules = (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
    known = [module.ARCHITECTURE for module in modules if hasattr(module, "ARCHITECTURE")]
    return {architecture.name: architecture for architecture in known}


def architecture_of(name: str) -> Architecture:
    """The architecture of that name. Raises UserError with the nearest names for another."""
    if name not in architectures():
        raise unknown("architecture", name, architectures())
    return architectures()[name]
