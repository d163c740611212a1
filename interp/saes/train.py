"""Train a TopK SAE on captured rows, with sae-lens' own class, trainer step and file format.

First cut: one architecture, rows in memory. What sae-lens leaves open is fixed here: the decoder bias starts at the
mean of the data (residual streams are far from centred), the same seed gives the same weights, and attention sinks
are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from interp.activations.rows import Rows
from interp.errors import UserError
from interp.model.cache import check_place, new_folder
from interp.model.model import Model
from interp.saes.lineage import lineage_of

Progress = Callable[[int, int, float], None]  # step, steps, loss


@dataclass(frozen=True)
class TopKSettings:
    """Width, sparsity and training of a TopK SAE (Gao et al. 2406.04093)."""

    d_sae: int = 2304
    """Number of features."""
    k: int = 32
    """Features active at each token."""
    steps: int = 200
    """Training steps."""
    batch: int = 1024
    """Rows a step."""
    lr: float = 3e-3
    """Adam's learning rate, decayed linearly over the last fifth."""
    seed: int = 0
    """Decides the weights and the order of rows."""

    def __post_init__(self) -> None:
        for name in ("d_sae", "k", "steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}; expected 1 or more")
        if self.k > self.d_sae:
            raise UserError(f"k={self.k} is above the width {self.d_sae}; expected k far below it")

    def check_rows(self, count: int) -> None:
        """Refuse fewer rows than a batch."""
        if count < self.batch:
            raise UserError(f"{count} rows came, fewer than a batch of {self.batch}; capture more tokens")


def train_topk(
    rows: Rows, model: Model, settings: TopKSettings = TopKSettings(), *, progress: Progress | None = None
) -> TopKTrainingSAE:
    """Train on `rows.clean` and return the SAE with its lineage in `cfg.metadata`.

    Raises UserError for fewer rows than a batch, or rows that are not finite.
    """
    data = rows.clean
    settings.check_rows(len(data))
    _check_finite(rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sae = TopKTrainingSAE(
            TopKTrainingSAEConfig(
                d_in=data.shape[1], d_sae=settings.d_sae, k=settings.k, metadata=_metadata(rows, model, settings)
            )
        )
        trainer = SAETrainer(
            SAETrainerConfig(
                total_training_samples=settings.steps * settings.batch,
                train_batch_size_samples=settings.batch,
                lr=settings.lr,
                lr_end=settings.lr / 10,
                lr_decay_steps=settings.steps // 5,
                dead_feature_window=100,
            ),
            sae=sae,
            data_provider=_shuffled(data, settings),
        )
        scale = data.shape[1] ** 0.5 / float(data.norm(dim=-1).mean())  # mean norm sqrt(d), as sae-lens expects
        trainer.activation_scaler.scaling_factor = scale
        sae.b_dec.data = data.mean(0) * scale
        for step in range(settings.steps):
            trainer.maybe_reset_sparsity()
            output = trainer.step(next(trainer.data_provider))
            trainer.n_training_steps += 1
            if progress is not None:
                progress(step + 1, settings.steps, float(output.loss.detach()))
        sae.fold_activation_norm_scaling_factor(scale)
        trainer.set_final_sae_metadata()
    return sae


def check_new(folder: Path) -> None:
    """Refuse a folder that is there already or cannot be made; ask before training for minutes."""
    if folder.exists():
        raise UserError(f"{folder} exists already; expected a new folder for the SAE; choose another or remove it")
    check_place(folder, "--out")


def save_sae(sae: TopKTrainingSAE, folder: Path) -> Path:
    """Write the SAE in SAELens' format (`cfg.json`, `sae_weights.safetensors`), whole or not at all."""
    check_new(folder)
    with new_folder(folder, needs_bytes=4 * sum(p.numel() for p in sae.parameters())) as temporary:
        sae.save_inference_model(temporary)
    return folder


def _check_finite(rows: Rows) -> None:
    bad = (~torch.isfinite(rows.values)).any(-1).nonzero().flatten()
    if len(bad):
        raise UserError(f"row {int(bad[0])} at {rows.site} holds NaN or infinity ({len(bad)} such rows); capture again")


def _metadata(rows: Rows, model: Model, settings: TopKSettings) -> SAEMetadata:
    lineage: dict[str, Any] = {
        **lineage_of(model, rows.site),
        "context_size": int(rows.position.max()) + 1,
        "sinks_excluded": True,
        "training_rows": len(rows.clean),
        "training": asdict(settings),
        "libraries": model.provenance.libraries,
    }
    return SAEMetadata(**lineage)


def _shuffled(data: Float[Tensor, "row d"], settings: TopKSettings) -> Iterator[Tensor]:
    """Batches of rows in a new random order each epoch, for ever."""
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        order = torch.randperm(len(data), generator=generator)
        for start in range(0, len(order) - settings.batch + 1, settings.batch):
            yield data[order[start : start + settings.batch]]
