"""Sparse autoencoders: train, load, evaluate; SAELens' on-disk format.

`from interp import saes`, then `saes.train(saes.plan_sae(site, "topk", 9216, k=32), …)`. Nothing loads until it is
used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.saes.evaluate import evaluate_sae, evaluate_saes
    from interp.saes.loading.attach import attach_sae
    from interp.saes.loading.sae import load_sae, load_transcoder
    from interp.saes.training.plan import SAEPlan, Training, plan_sae
    from interp.saes.training.report import Telling
    from interp.saes.training.save import save_sae
    from interp.saes.training.sources import MemoryRows, ModelRows, StoreRows
    from interp.saes.training.trainer import train

_HOMES = {
    "MemoryRows": "training.sources",
    "ModelRows": "training.sources",
    "SAEPlan": "training.plan",
    "StoreRows": "training.sources",
    "Telling": "training.report",
    "Training": "training.plan",
    "attach_sae": "loading.attach",
    "evaluate_sae": "evaluate",
    "evaluate_saes": "evaluate",
    "load_sae": "loading.sae",
    "load_transcoder": "loading.sae",
    "plan_sae": "training.plan",
    "save_sae": "training.save",
    "train": "training.trainer",
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
