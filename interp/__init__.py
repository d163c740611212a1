"""interp-probes: why does a language model do that?

`from interp import load_model` is the front door; the folders below are the stages of the data's way.
Importing this package loads neither torch nor transformers: those wait until a model is asked for.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.activations.store import open_store
    from interp.errors import UserError
    from interp.lab.findings import Control, Figure, Finding
    from interp.lab.probe import Lab, probe
    from interp.model.edits import ablate, patch, steer
    from interp.model.loading.load import load_model
    from interp.model.model import Model
    from interp.stats.estimate import Estimate
    from interp.text.data import data

try:
    __version__ = version("interp-probes")
except PackageNotFoundError:  # a bare checkout on sys.path
    __version__ = "0+unknown"

_HOMES = {
    "Control": "interp.lab.findings",
    "Estimate": "interp.stats.estimate",
    "Figure": "interp.lab.findings",
    "Finding": "interp.lab.findings",
    "Lab": "interp.lab.probe",
    "Model": "interp.model.model",
    "UserError": "interp.errors",
    "ablate": "interp.model.edits",
    "data": "interp.text.data",
    "load_model": "interp.model.loading.load",
    "open_store": "interp.activations.store",
    "patch": "interp.model.edits",
    "probe": "interp.lab.probe",
    "steer": "interp.model.edits",
}

__all__ = [
    "Control",
    "Estimate",
    "Figure",
    "Finding",
    "Lab",
    "Model",
    "UserError",
    "ablate",
    "data",
    "load_model",
    "open_store",
    "patch",
    "probe",
    "steer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'interp' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
