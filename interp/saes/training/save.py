"""Trained weights as SAELens' own classes, and these in a folder: what is saved, evaluated and loaded."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from sae_lens.registry import get_sae_class
from sae_lens.saes.sae import SAE, SAEMetadata
from torch import Tensor

from interp.errors import UserError
from interp.model.loading.cache import new_folder
from interp.paths import check_place, expand
from interp.saes.training.plan import SAEPlan


@torch.no_grad()
def as_sae_lens(
    plan: SAEPlan,
    weights: dict[str, Tensor],
    buffers: dict[str, Tensor],
    scales: tuple[float, float],
    metadata: dict[str, Any],
) -> SAE[Any]:
    """The SAE or transcoder for inference: activations as the model has them in and out, scales and norms folded in.

    A BatchTopK SAE becomes a JumpReLU SAE whose thresholds are all the running mean, as in sae-lens.
    """
    scale_in, scale_out = scales
    state = {name: value.detach().cpu().clone() for name, value in weights.items()}
    state["W_enc"] = state["W_enc"].T.contiguous() * scale_in
    state["W_dec"] /= scale_out
    state["b_dec"] /= scale_out
    if "k" in {f.name for f in fields(plan.settings)}:  # trained on pre-activations times norm: make the norms 1
        norm = state["W_dec"].norm(dim=1).clamp(min=1e-8)
        state["W_dec"] /= norm[:, None]
        state["W_enc"] *= norm
        state["b_enc"] *= norm
        if "topk_threshold" in buffers:
            threshold = float(buffers["topk_threshold"] / buffers["topk_threshold_weight"]) / scale_out
            state["threshold"] = torch.full_like(state["b_enc"], threshold)
    name = saved_as(plan)
    cls, config = get_sae_class(name)
    sizes: dict[str, Any] = {"d_in": state["W_enc"].shape[0], "d_sae": plan.d_sae}
    if plan.site_out is not None:
        sizes |= {"d_out": len(state["b_dec"]), "apply_b_dec_to_input": False}
    if name == "topk":
        sizes["k"] = int(plan.settings.k)
    settings = plan.to_dict()["settings"]
    told = {"training_architecture": plan.architecture, "training_architecture_details": settings}
    sae = cls(config(**sizes, device="meta", metadata=SAEMetadata(**metadata, **told)))  # meta: no weights drawn
    sae.load_state_dict(state, assign=True)
    return sae.to(device="cpu").eval()


def saved_as(plan: SAEPlan) -> str:
    """SAELens' architecture of the trained SAE."""
    if plan.site_out is not None:
        return str(plan.kind.transcodes)
    return "jumprelu" if plan.kind.buffers else plan.architecture


def save_sae(sae: SAE[Any], folder: str | Path, *, metrics: Path | None = None) -> Path:
    """Write the SAE in SAELens' format (`cfg.json`, `sae_weights.safetensors`, and `metrics`), whole or not at all."""
    folder = expand(folder)
    check_new(folder)
    with new_folder(folder, needs_bytes=4 * sum(p.numel() for p in sae.parameters())) as temporary:
        sae.save_model(temporary)
        if metrics is not None:
            shutil.copy(metrics, temporary / metrics.name)
    return folder


def check_new(folder: Path) -> None:
    """Refuse a folder that is there already or cannot be made; ask before training for hours."""
    try:
        there = folder.exists() or folder.is_symlink()
    except OSError as error:
        raise UserError(f"--out {str(folder)[:80]}…: {error.strerror}; choose another path") from error
    if there:
        raise UserError(f"{folder} exists already; expected a new folder for the SAE; choose another or remove it")
    check_place(folder, "--out")
