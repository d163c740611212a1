"""Sparse autoencoders: train, load, evaluate; SAELens' on-disk format.

`from interp import saes`, then `saes.train(saes.plan_sae(site, "topk", 9216, k=32), …)`. Nothing loads until it is
used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.saes.attach import attach_sae
    from interp.saes.convert import save_sae
    from interp.saes.evaluate import evaluate_sae, evaluate_saes
    from interp.saes.load import load_sae, load_transcoder
    from interp.saes.plan import SAEPlan, Training, plan_sae
    from interp.saes.report import Telling
    from interp.saes.sources import MemoryRows, ModelRows, StoreRows
    from interp.saes.trainer import train

_HOMES = {
    "MemoryRows": "sources",
    "ModelRows": "sources",
    "SAEPlan": "plan",
    "StoreRows": "sources",
    "Telling": "report",
    "Training": "plan",
    "attach_sae": "attach",
    "evaluate_sae": "evaluate",
    "evaluate_saes": "evaluate",
    "load_sae": "load",
    "load_transcoder": "load",
    "plan_sae": "plan",
    "save_sae": "convert",
    "train": "trainer",
}

__all__ = [
    "MemoryRows",
    "ModelRows",
    "SAEPlan",
    "StoreRows",
    "Telling",
    "Training",
    "attach_sae",
    "evaluate_sae",
    "evaluate_saes",
    "load_sae",
    "load_transcoder",
    "plan_sae",
    "save_sae",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'interp.saes' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"interp.saes.{_HOMES[name]}"), name)
