"""An SAE on a model, checked by what it does there.

Names and hashes can agree and the numbers still be wrong: another scale, another site in a renamed model, a converter
that lost a bias. So a sample of text is read, and activations, explained variance and sparsity are held against what
the SAE's training wrote down (SAELens #553, #410 and #333 are SAEs that nobody held against anything).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from interp.activations.rows import capture_rows
from interp.errors import UserError
from interp.model.hooks.sites import layer_of
from interp.model.model import Model
from interp.saes.lineage import refuse_misfit
from interp.saes.loading.sae import load_sae, site_of
from interp.text.corpus import split_corpus

Documents = Sequence[str] | Sequence[list[int]]
TOKENS, CONTEXT = 600, 64  # of the sample: two seconds on a laptop
# Other text than the training's moves all three; a wrong scale or bias moves them by more. A neighbouring layer does
# not, hence the comparison with them.
SCALE_OFF, VARIANCE_OFF, SPARSITY_OFF = 1.5, 0.25, 3.0
CLEARLY = 0.01  # of the variance: what a neighbouring layer may be better by


@dataclass(frozen=True)
class Fit:
    """What an SAE does on a sample: the rows' mean norm, the share of variance explained, features active a token."""

    mean_norm: float
    explained_variance: float
    l0: float


def attach_sae(
    source: str | Path,
    model: Model,
    *,
    force: bool = False,
    sample: Documents | None = None,
    site: str | None = None,
) -> SAE[Any]:
    """Load an SAE for `model` and check that it works there: record first, then numbers on a sample of text.

    `source` and `site` are what `load_sae` takes. `sample`: documents, as text or token ids; by default held-out ones
    of the bundled sample.
    `force` lets everything through that can be computed, and says on stderr what does not fit.
    Raises UserError with the reason where something does not fit.
    """
    sae = load_sae(source, site=site).to(device=model.device)
    refuse_misfit(sae.cfg, model, str(source), force=force)
    documents = split_corpus()[1] if sample is None else sample
    fit = measure_fit(sae, model, documents)
    if faults := [*find_faults(sae, fit), *_better_neighbour(sae, model, documents, fit)]:
        told = f"{source} does not fit {model.provenance.name} on a sample of text: {'; '.join(faults)}"
        if not force:
            raise UserError(f"{told}; check model, site and dtype, or use it all the same with --force (force=True)")
        print(f"forced: {told}", file=sys.stderr)
    return sae


def _better_neighbour(sae: SAE[Any], model: Model, documents: Documents, fit: Fit) -> list[str]:
    """Does it explain more one layer up or down? Layers are alike: an SAE of the next one would pass by its numbers."""
    site = site_of(sae)
    layer, faults = layer_of(site), []
    for other in () if layer is None else (layer - 1, layer + 1):
        name = site.replace(f"blocks.{layer}.", f"blocks.{other}.")
        if name in model.site_table.axes:
            there = measure_fit(sae, model, documents, name).explained_variance
            if there > max(0.3, fit.explained_variance + CLEARLY):
                faults.append(
                    f"it explains {there:.2f} of the variance at {name}, {fit.explained_variance:.2f} at {site}"
                )
    return faults


@torch.no_grad()
def measure_fit(sae: SAE[Any], model: Model, documents: Documents, site: str | None = None) -> Fit:
    """What the SAE does on the first tokens of `documents`, at its own site or another; sinks are left out."""
    context = min(CONTEXT, model.context_length or CONTEXT)
    x = capture_rows(model, documents, site or site_of(sae), max_tokens=TOKENS, context=context).clean
    features = sae.encode(x.to(sae.device, sae.dtype))
    error = (sae.decode(features).cpu().double() - x.double()).square().sum()
    variance = (x.double() - x.double().mean(0)).square().sum()
    active = float((features != 0).sum(-1).double().mean())
    return Fit(float(x.norm(dim=1).mean()), float(1 - error / variance), active)


def find_faults(sae: SAE[Any], fit: Fit) -> list[str]:
    """What of `fit` is far from what the SAE's training wrote down; without a record, only what no SAE does."""
    record, faults = sae.cfg.metadata, []
    numbers = (record.mean_norm, record.explained_variance, record.l0)
    norm, explained, l0 = (n if isinstance(n, int | float) else None for n in numbers)
    if norm and not 1 / SCALE_OFF < fit.mean_norm / norm < SCALE_OFF:
        faults.append(f"activations have a mean norm of {fit.mean_norm:.3g}, {norm:.3g} in training")
    if explained is not None:
        if fit.explained_variance < explained - VARIANCE_OFF:
            faults.append(f"it explains {fit.explained_variance:.2f} of their variance, {explained:.2f} in training")
    elif fit.explained_variance < 0:
        faults.append(f"it is worse than the mean (explained variance {fit.explained_variance:.2f})")
    if l0 and not 1 / SPARSITY_OFF < max(fit.l0, 1e-9) / l0 < SPARSITY_OFF:
        faults.append(f"{fit.l0:.1f} features are active at a token, {l0:.1f} in training")
    return faults
