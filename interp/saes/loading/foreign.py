"""A sparse autoencoder that another library wrote, as the class of sae-lens that computes the same.

Each format has a file here, which reads a folder of it into a `Foreign`: `sparsify.py`, `dictionary_learning.py`.
Weights come in float32 or wider. What cannot be converted exactly is refused by name.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.registry import get_sae_class
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from interp.errors import UserError
from interp.model.model import Model

ASSUMED = "its settings name a layer and no submodule"

# A tensor in another library's file: its name in sae-lens, and its shape there; D is d_in, F is d_sae.
Parts = Mapping[str, tuple[str, str]]
SAE_LENS: Parts = {
    "W_enc": ("W_enc", "DF"),
    "b_enc": ("b_enc", "F"),
    "W_dec": ("W_dec", "FD"),
    "b_dec": ("b_dec", "D"),
}
ENCODER: Parts = {"encoder.weight": ("W_enc", "FD"), "encoder.bias": ("b_enc", "F")}


@dataclass(frozen=True)
class Foreign:
    """An SAE as read, for sae-lens' architecture `kind`; `site` is None where the folder does not say it."""

    kind: str
    weights: dict[str, Tensor]
    settings: dict[str, Any]
    metadata: dict[str, Any]
    site: str | None
    said: str  # what says the site, or fails to


def convert(foreign: Foreign, site: str, device: str) -> SAE[Any]:
    """The same SAE as an inference object of sae-lens that reads `site`."""
    d_in, d_sae = foreign.weights["W_enc"].shape
    dtype = str(foreign.weights["W_enc"].dtype).removeprefix("torch.")
    metadata = SAEMetadata(sae_lens_training_version=None, hook_name=site, **foreign.metadata)
    cls, config = get_sae_class(foreign.kind)
    sae = cls(config(d_in=d_in, d_sae=d_sae, dtype=dtype, device="meta", metadata=metadata, **foreign.settings))
    sae.load_state_dict(foreign.weights, assign=True)
    return sae.to(device=device)


def choose_site(foreign: Foreign, where: str, site: str | None, model: Model | None) -> str:
    """The site that was asked for, else the one the folder names. Raises UserError where that cannot be told."""
    if site is not None:
        return site
    if foreign.site is None:
        raise UserError(
            f"{where} does not say which site it reads ({foreign.said}); "
            "name it: load_sae(folder, model, site='blocks.8.hook_resid_post')"
        )
    if foreign.said == ASSUMED:
        print(f"{where}: {ASSUMED}; taken as {foreign.site}, else give site=", file=sys.stderr)
    module = re.fullmatch(r"blocks\.(\d+)\.hook_(mlp|attn)_out", foreign.site)
    if module and model is not None:
        own = f"blocks.{module[1]}.{module[2]}.hook_out"
        if model.site_table.origin.get(foreign.site, own) != own:  # Gemma 2 has a norm between the two
            raise UserError(
                f"{where} reads what a module puts out ({foreign.said}), but on this model {foreign.site} comes after "
                f"a norm; say which it was trained on: site={own!r} or site={foreign.site!r}"
            )
    return foreign.site


def peek(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_json(path: Path, where: str) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError where there is none."""
    check_there(path, where)
    if not (cfg := peek(path)):
        raise UserError(f"{where}: {path.name} is no JSON object; expected the settings of an SAE; fetch it again")
    return cfg


def check_there(path: Path, where: str) -> None:
    """Raise UserError, with what the folder holds, for a file that it lacks."""
    if not path.is_file():
        held = ", ".join(sorted(p.name for p in path.parent.iterdir())[:8])
        raise UserError(f"{where} has no {path.name} (it holds {held}); expected the whole folder; fetch the SAE again")


def whole(cfg: dict[str, Any], name: str, where: str) -> int:
    """A setting that is a whole number above 0. Raises UserError for anything else."""
    value = cfg.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{where} says {name}={value!r} in its settings; expected a whole number above 0")
    return value


def read_k(cfg: dict[str, Any], d_sae: int, where: str) -> int:
    """How many features are active at a token. Raises UserError for more than there are."""
    if (k := whole(cfg, "k", where)) > d_sae:
        raise UserError(f"{where} says k={k} of {d_sae} features in its settings; expected k below that")
    return k


def metadata_of(told: dict[str, Any], library: str) -> dict[str, Any]:
    """What the other library says of the SAE, under SAELens' keys, and which library that was."""
    return {name: value for name, value in told.items() if value} | {"converted_from": library}


def take(tensors: dict[str, Tensor], parts: Parts, sizes: dict[str, int], where: str) -> dict[str, Tensor]:
    """The tensors under sae-lens' names, turned its way. Raises UserError for one that is missing, odd or misshapen."""
    if missing := sorted(set(parts) - set(tensors)):
        raise UserError(f"{where} has no {', '.join(missing)} (it holds {', '.join(sorted(tensors))}); fetch it again")
    if odd := sorted(set(tensors) - set(parts)):
        raise UserError(f"{where} holds {', '.join(odd)}, which no SAE of its settings has; it cannot be converted")
    out: dict[str, Tensor] = {}
    for key, (name, letters) in parts.items():
        tensor, shape = tensors[key], [sizes[letter] for letter in letters]
        if list(tensor.shape) != shape or tensor.layout != torch.strided or not tensor.is_floating_point():
            came = f"{list(tensor.shape)} of {tensor.dtype}, {tensor.layout}"
            raise UserError(
                f"{where}: {key} is {came}; expected {shape} of floating-point numbers, as its settings say"
            )
        turned = tensor.T if name in SAE_LENS and letters != SAE_LENS[name][1] else tensor
        out[name] = turned.to(torch.promote_types(tensor.dtype, torch.float32)).contiguous()
    return out
