"""An SAE on a model, checked by what it does there.

Names and hashes can agree and the numbers still be wrong: another scale, another site in a renamed model, a converter
that lost a bias. So a sample of text is read, and activations, explained variance and sparsity are held against what
the SAE's training wrote down (SAELens #553, #410 and #333 are SAEs that nobody held against anything).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from interp.activations.rows import find_sinks, first_tokens, read_rows, rows_site
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
    fits = measure_fits(sae, model, documents, [site_of(sae), *_neighbours(sae, model)])
    if faults := [*find_faults(sae, fits[site_of(sae)]), *_better_neighbour(site_of(sae), fits)]:
        told = f"{source} does not fit {model.provenance.name} on a sample of text: {'; '.join(faults)}"
        if not force:
            raise UserError(f"{told}; check model, site and dtype, or use it all the same with --force (force=True)")
        print(f"forced: {told}", file=sys.stderr)
    return sae


def _neighbours(sae: SAE[Any], model: Model) -> list[str]:
    """The same site one layer up and down, where there is one."""
    site, table = site_of(sae), model.site_table.axes
    if (layer := layer_of(site)) is None:
        return []
    others = [site.replace(f"blocks.{layer}.", f"blocks.{other}.") for other in (layer - 1, layer + 1)]
    return [other for other in others if other in table]


def _better_neighbour(site: str, fits: Mapping[str, Fit]) -> list[str]:
    """Does it explain more one layer up or down? Layers are alike: an SAE of the next one would pass by its numbers."""
    own = fits[site].explained_variance
    return [
        f"it explains {fit.explained_variance:.2f} of the variance at {name}, {own:.2f} at {site}"
        for name, fit in fits.items()
        if name != site and fit.explained_variance > max(0.3, own + CLEARLY)
    ]


def measure_fit(sae: SAE[Any], model: Model, documents: Documents) -> Fit:
    """What the SAE does on the first tokens of `documents`; sinks are left out."""
    return measure_fits(sae, model, documents, [site_of(sae)])[site_of(sae)]


@torch.no_grad()
def measure_fits(sae: SAE[Any], model: Model, documents: Documents, sites: Sequence[str]) -> dict[str, Fit]:
    """The same at its own site and at others, all read in one pass."""
    context = min(CONTEXT, model.context_length or CONTEXT)
    ids = first_tokens(model.encode(documents, cut=context), TOKENS)
    position = torch.cat([torch.arange(len(row)) for row in ids])
    names = {site: rows_site(model, site) for site in sites}
    read, found = read_rows(model, ids, list(names.values())), dict[str, Fit]()
    for site, name in names.items():
        rows = read[name].float().cpu()
        x = rows[~find_sinks(rows, position)]
        features = sae.encode(x.to(sae.device, sae.dtype))
        error = (sae.decode(features).cpu().double() - x.double()).square().sum()
        variance = (x.double() - x.double().mean(0)).square().sum()
        active = float((features != 0).sum(-1).float().mean())
        found[site] = Fit(float(x.norm(dim=1).mean()), float(1 - error / variance), active)
    return found


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
