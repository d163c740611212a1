"""Sparse autoencoders: train, load, evaluate; SAELens' on-disk format.

`from interp import saes`, then `saes.train(saes.plan_sae(site, "topk", 9216, k=32), …)`. Nothing loads until it is
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._door import lazy

if TYPE_CHECKING:
    from interp.saes.edits import reconstruction
    from interp.saes.evaluate import (
        SAEReport,
        evaluate_sae,
        evaluate_saes,
        paired_gap,
        random_sae_like,
        silent_features,
    )
    from interp.saes.loading.attach import Fit, attach_sae, find_faults, measure_fit
    from interp.saes.loading.default import default_plan, default_site, ensure_default_sae, shipped_sae
    from interp.saes.loading.sae import SAE, describe_sae, encode_features, load_sae, load_transcoder, site_of
    from interp.saes.neuron_basis import coordinates_as_sae
    from interp.saes.training.plan import SAEPlan, Training, plan_sae
    from interp.saes.training.report import TrainingCallbacks
    from interp.saes.training.save import as_sae_lens, save_sae
    from interp.saes.training.sources import MemoryRows, ModelRows, StoreRows
    from interp.saes.training.trainer import train
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            # train
            "interp.saes.training.plan": "SAEPlan, Training, plan_sae",
            "interp.saes.training.report": "TrainingCallbacks",
            "interp.saes.training.save": "as_sae_lens, save_sae",
            "interp.saes.training.sources": "MemoryRows, ModelRows, StoreRows",
            "interp.saes.training.trainer": "train",
            # load
            "interp.saes.loading.attach": "Fit, attach_sae, find_faults, measure_fit",
            "interp.saes.loading.default": "default_plan, default_site, ensure_default_sae, shipped_sae",
            "interp.saes.loading.sae": "SAE, describe_sae, encode_features, load_sae, load_transcoder, site_of",
            # use and evaluate; edits with features are in `interp.edits`
            "interp.saes.edits": "reconstruction",
            "interp.saes.evaluate": (
                "SAEReport, evaluate_sae, evaluate_saes, paired_gap, random_sae_like, silent_features"
            ),
            "interp.saes.neuron_basis": "coordinates_as_sae",
        },
    )

__all__ = [
    "MemoryRows",
    "ModelRows",
    "SAEPlan",
    "StoreRows",
    "Training",
    "TrainingCallbacks",
    "as_sae_lens",
    "plan_sae",
    "save_sae",
    "train",
]
__all__ += [
    "SAE",
    "Fit",
    "attach_sae",
    "default_plan",
    "default_site",
    "describe_sae",
    "encode_features",
    "ensure_default_sae",
    "find_faults",
    "load_sae",
    "load_transcoder",
    "measure_fit",
    "shipped_sae",
    "site_of",
]
__all__ += [
    "SAEReport",
    "coordinates_as_sae",
    "evaluate_sae",
    "evaluate_saes",
    "paired_gap",
    "random_sae_like",
    "reconstruction",
    "silent_features",
]
