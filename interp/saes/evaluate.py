"""SAE evaluation: explained variance, L0 and loss recovered on documents, with the controls that keep them honest.

Explained variance is 1 - sum ||x - x̂||² / sum ||x - mean||² over tokens, all dimensions together (total variance;
SAELens #659 is what happens with another definition). Attention sinks are left out: one of them outweighs thousands of
other tokens, so that with them the number says only how the SAE treats the sinks: near 1 if it was trained on them
whatever else it learned, and as low as you like if it was not.

Cross-entropy recovered puts the model's loss with the reconstruction on a scale from 0 (the mean activation in its
place) to 1 (the model as it is). Every loss is taken at the same tokens; predictions from position 0 are not scored.

Both get an interval by resampling documents, because tokens of a document are not independent. The null is
`random_sae_like`: as many directions, as sparse, but random.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from sae_lens import SAE, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from interp.activations.rows import SINK_RULE, Rows, capture_rows, median_norm
from interp.errors import UserError
from interp.model.model import Model
from interp.progress import Progress, silent
from interp.saes.edits import mean_ablate, reconstruct
from interp.saes.lineage import refuse_misfit
from interp.saes.loading.sae import BLOCK, site_of
from interp.saes.losses import Passes, losses_under
from interp.stats.intervals import Interval, expanded_percentile


class DocumentSums(NamedTuple):
    """Sums per document [document]: squared distances from the mean and errors without sinks, and losses in nats."""

    squares: NDArray[np.float64]
    errors: NDArray[np.float64]
    clean: NDArray[np.float64]
    mean: NDArray[np.float64]
    reconstruction: NDArray[np.float64]

    def explained(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The explained variance of each resample; NaN for one of documents that hold nothing but sinks."""
        total = weights @ self.squares
        return 1 - (weights @ self.errors) / np.where(total > 0, total, np.nan)

    def recovered(self, weights: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """The loss recovered of each resample; None where one of them has no scale, and without losses."""
        scale = weights @ (self.mean - self.clean)
        if np.isnan(self.reconstruction).any():
            return None
        return (weights @ (self.mean - self.reconstruction)) / scale if bool((scale > 0).all()) else None


@dataclass(frozen=True)
class SAEReport:
    """What `evaluate_sae` measured. Losses are in nats a token; shares are from 0 to 1."""

    site: str
    explained_variance: Interval
    """1 - sum ||x - x̂||² / sum ||x - mean||² over tokens that are no sinks."""
    explained_variance_with_sinks: float
    """The same with sinks, which decide it alone; only to be shown beside the other."""
    l0: float
    """Mean number of features active at a token."""
    dead_share: float
    """Share of features that fire at none of the `n_tokens` tokens."""
    ce_clean: float
    """NaN, as the other losses, where they were not asked for."""
    ce_reconstruction: float
    ce_mean_ablation: float
    ce_zero_ablation: float
    ce_recovered: Interval | None
    """(mean ablation - reconstruction) / (mean ablation - clean). None where mean ablation does not hurt in every
    resample, so that there is no scale to measure on, and where losses were not asked for."""
    n_tokens: int
    """Tokens behind the variance, L0 and the dead share: sinks left out."""
    n_predictions: int
    """Predictions behind the losses: all but those from position 0."""
    n_documents: int
    n_sinks: int
    sink_rule: str = SINK_RULE
    sums: DocumentSums | None = field(default=None, repr=False, compare=False)
    """What both shares are made of, document by document, for `paired_gap`."""


def evaluate_sae(
    sae: SAE[Any],
    model: Model,
    documents: Sequence[str] | Sequence[list[int]],
    *,
    max_tokens: int | None = None,
    progress: Progress = silent,
    seed: int = 0,
    n_boot: int = 1000,
) -> SAEReport:
    """Measure `sae` on `documents`, each cut to the length of context that the SAE was trained at.

    Use documents that training did not see. `progress` counts tokens over all passes.
    Raises UserError for an SAE of another model or site, fewer than two documents, or none of three tokens.
    """
    return evaluate_saes([sae], model, documents, max_tokens=max_tokens, progress=progress, seed=seed, n_boot=n_boot)[0]


def evaluate_saes(
    saes: Sequence[SAE[Any]],
    model: Model,
    documents: Sequence[str] | Sequence[list[int]],
    *,
    max_tokens: int | None = None,
    progress: Progress = silent,
    losses: bool | Sequence[bool] = True,
    seed: int = 0,
    n_boot: int = 1000,
) -> list[SAEReport]:
    """`evaluate_sae` for several SAEs of one site, an SAE and its `random_sae_like` say, on the same tokens.

    The passes without an SAE are made once: 4 + len(saes) forwards of every token instead of 5 * len(saes). `losses`:
    are the model's losses asked for, and with which SAEs? Else they are NaN, and the activations are read once.
    """
    with_loss = [losses] * len(saes) if isinstance(losses, bool) else list(losses)
    if len(with_loss) != len(saes):
        raise UserError(f"losses={with_loss} came for {len(saes)} SAEs; expected True or False for each")
    for sae in saes:
        refuse_misfit(sae.cfg, model, "this SAE")
    if len(sites := {site_of(sae) for sae in saes}) != 1:
        raise UserError(f"the SAEs read {', '.join(sorted(sites)) or 'nothing'}; expected SAEs of one site")
    passes = Passes(progress, 1 + (3 + sum(with_loss)) * any(with_loss))
    context = saes[0].cfg.metadata.context_size or None  # where it does not say at what length it was trained
    rows = capture_rows(model, documents, *sites, max_tokens=max_tokens, context=context, progress=passes.count)
    texts = [ids.tolist() for ids in rows.ids.split(torch.bincount(rows.document).tolist())]
    if len(texts) < 2 or max(map(len, texts)) < 3:
        raise UserError(
            f"{len(texts)} documents of at most {max(map(len, texts))} tokens came; expected two or more documents, "
            "for the interval over documents, and one of three tokens; give more text"
        )
    typical, mean = median_norm(rows.values), rows.clean.mean(0)

    replaced = [
        mean_ablate(mean, typical_norm=typical),
        mean_ablate(torch.zeros_like(mean), typical_norm=typical),
        *(reconstruct(sae, typical_norm=typical) for sae, asked in zip(saes, with_loss, strict=True) if asked),
    ]
    never = np.full(len(texts), np.nan)
    if any(with_loss):
        clean, of_mean, of_zero, *rest = losses_under(model, texts, rows, [None, *replaced], passes)
    else:
        clean, of_mean, of_zero, *rest = never, never, never
    base = _Base(
        rows=rows,
        predictions=sum(max(0, len(text) - 2) for text in texts),
        weights=_resamples(len(texts), n_boot, seed),
        clean=clean,
        mean=of_mean,
        zero=of_zero,
    )
    losses_of = iter(rest)
    return [_report(sae, base, next(losses_of) if asked else never) for sae, asked in zip(saes, with_loss, strict=True)]


def paired_gap(
    report: SAEReport,
    other: SAEReport,
    of: Literal["explained_variance", "ce_recovered"],
    *,
    seed: int = 0,
    n_boot: int = 1000,
) -> Interval | None:
    """How far a share of one SAE is above that of another, both resampled over the same documents at once.

    Documents that are hard for one SAE are hard for the other: two intervals added up as if independent are too wide
    then, and too narrow where one gains what the other loses. None where the documents, or the tokens of them, differ,
    and where a resample has no scale.
    """
    one, two = report.sums, other.sums
    if one is None or two is None or len(one.clean) != len(two.clean):
        return None
    asked = np.isfinite(one.clean).all() or np.isfinite(two.clean).all()
    known = (one.clean, two.clean) if asked else (one.squares, two.squares)
    if not np.allclose(*known, 1e-3):
        return None
    weights = _resamples(len(one.clean), n_boot, seed)
    if of == "explained_variance":
        return expanded_percentile(one.explained(weights) - two.explained(weights), len(one.clean))
    first, second = one.recovered(weights), two.recovered(weights)
    return None if first is None or second is None else expanded_percentile(first - second, len(one.clean))


def silent_features(sae: SAE[Any], rows: Rows) -> NDArray[np.bool_]:
    """Which features [d_sae] fire at none of the rows that are no sinks."""
    return (~_fit(sae, rows).fired).numpy()


@torch.no_grad()
def random_sae_like(sae: SAE[Any], seed: int, rows: Rows) -> TopKSAE:
    """The null of every metric: a TopK SAE as wide and as sparse, with the same decoder bias, of random directions.

    Directions are uniform on the sphere, the encoder reads along the same ones. k is the SAE's, or for another
    architecture the mean number of its features that fire at a row. What it writes is multiplied by the one gain that
    fits `rows` best: the k chosen directions overlap, so their plain sum is too long, the more so the larger k.
    """
    sample = rows.clean[:BLOCK].to(sae.device, sae.dtype)
    fires = float((sae.encode(sample) != 0).sum(-1).float().mean())
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(sae.W_dec.shape, generator=generator)
    directions = (directions / directions.norm(dim=-1, keepdim=True)).to(sae.device, sae.dtype)
    metadata = SAEMetadata(**copy.deepcopy(sae.cfg.metadata.to_dict()), control=f"random directions, seed {seed}")
    sizes = {"d_in": sae.cfg.d_in, "d_sae": sae.cfg.d_sae, "k": getattr(sae.cfg, "k", max(1, round(fires)))}
    as_it = {"dtype": sae.cfg.dtype, "normalize_activations": sae.cfg.normalize_activations}
    control = TopKSAE(TopKSAEConfig(**sizes, **as_it, metadata=metadata)).to(sae.device)
    weights = {"W_enc": directions.T.contiguous(), "W_dec": directions, "b_dec": sae.b_dec.detach().clone()}
    control.load_state_dict(weights | {"b_enc": torch.zeros_like(directions[:, 0])})
    written, wanted = control.decode(control.encode(sample)) - control.b_dec, sample - control.b_dec
    control.W_dec.mul_((written * wanted).sum() / written.square().sum().clamp(min=1e-12))
    return control.eval()


class _Base(NamedTuple):
    """What is measured once, whatever the SAE: losses are sums per document."""

    rows: Rows
    predictions: int
    weights: NDArray[np.float64]
    clean: NDArray[np.float64]
    mean: NDArray[np.float64]
    zero: NDArray[np.float64]


def _report(sae: SAE[Any], base: _Base, ours: NDArray[np.float64]) -> SAEReport:
    rows, fit, n = base.rows, _fit(sae, base.rows), base.weights.shape[1]
    sums = DocumentSums(*_variance_sums(rows, fit.error, ~rows.is_sink, n), base.clean, base.mean, ours)
    squares, errors = _variance_sums(rows, fit.error, torch.ones_like(rows.is_sink), n)
    explained, recovered = expanded_percentile(sums.explained(base.weights), n), sums.recovered(base.weights)
    return SAEReport(
        site=rows.site,
        explained_variance=explained._replace(high=min(explained.high, 1.0)),
        explained_variance_with_sinks=float(1 - errors.sum() / squares.sum()),
        l0=fit.l0,
        dead_share=float((~fit.fired).float().mean()),
        ce_clean=float(base.clean.sum()) / base.predictions,
        ce_reconstruction=float(ours.sum()) / base.predictions,
        ce_mean_ablation=float(base.mean.sum()) / base.predictions,
        ce_zero_ablation=float(base.zero.sum()) / base.predictions,
        ce_recovered=None if recovered is None else expanded_percentile(recovered, n),
        n_tokens=int((~rows.is_sink).sum()),
        n_predictions=base.predictions,
        n_documents=n,
        n_sinks=int(rows.is_sink.sum()),
        sums=sums,
    )


class _Fit(NamedTuple):
    error: Float[Tensor, " row"]  # ||x - x̂||², sinks included
    l0: float
    fired: Bool[Tensor, " d_sae"]  # at any row that is no sink


@torch.no_grad()
def _fit(sae: SAE[Any], rows: Rows) -> _Fit:
    errors, fired, active = [], torch.zeros(sae.cfg.d_sae, dtype=torch.bool), 0
    for block, is_sink in zip(rows.values.split(BLOCK), rows.is_sink.split(BLOCK), strict=True):
        features = sae.encode(block.to(sae.device, sae.dtype))
        errors.append((sae.decode(features).cpu().double() - block.double()).square().sum(-1))
        ordinary = (features != 0).cpu()[~is_sink]
        fired |= ordinary.any(0)
        active += int(ordinary.sum())
    n = int((~rows.is_sink).sum())
    return _Fit(torch.cat(errors), active / n, fired)


def _resamples(n: int, n_boot: int, seed: int) -> NDArray[np.float64]:
    """How often each document is counted: [1 + n_boot, n]; the first line counts each once."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    return np.vstack([np.ones(n), drawn]).astype(np.float64)


def _variance_sums(rows: Rows, error: Tensor, kept: Tensor, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared distances from the mean of the rows `kept`, and their errors, per document; resamples keep that mean.

    A mean fitted anew to each resample would lower every total a little and push the interval below the number.
    """
    mean = rows.values[kept].mean(0).double()
    squares = torch.zeros(n, dtype=torch.float64)
    for block, document, chosen in zip(*(t.split(BLOCK) for t in (rows.values, rows.document, kept)), strict=True):
        squares.index_add_(0, document[chosen], (block[chosen].double() - mean).square().sum(-1))
    return squares.numpy(), torch.bincount(rows.document[kept], error[kept], minlength=n).numpy()
